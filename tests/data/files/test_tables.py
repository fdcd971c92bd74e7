"""Tables are read row by row; a row that cannot be read is named with its file, place and reason."""

import gzip

import pytest

from flaxmill.data.files.tables import read_csv, read_parquet, read_tsv


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_quoted_fields_hold_commas_quotes_and_line_ends(tmp_path):
    path = write(tmp_path, "a.csv", '\ufefftext,label\r\n"one, ""two""\nthree",x\r\n\r\nfour,y\r\n')
    rows = list(read_csv(path))
    assert [row.values for row in rows] == [
        {"text": 'one, "two"\nthree', "label": "x"},
        {"text": "four", "label": "y"},
    ]
    assert [row.place for row in rows] == [f"row 1 (line 2) of {path}", f"row 2 (line 5) of {path}"]


def test_tabs_separate_the_fields_of_a_tsv(tmp_path):
    path = write(tmp_path, "a.tsv", "text\tlabel\na, b\tx\n")
    assert [row.values for row in read_tsv(path)] == [{"text": "a, b", "label": "x"}]


def rows(path, read=read_csv):
    return [row.values for row in read(path)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n", "\n  \n"])
def test_any_line_end_ends_a_row(tmp_path, end):
    path = write(tmp_path, "a.csv", end.join(["text,label", "the mill,a", '"the\rcat",b', ""]))
    assert rows(path) == [{"text": "the mill", "label": "a"}, {"text": "the\rcat", "label": "b"}]


def test_a_bare_return_counts_as_a_line_of_its_own(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\rthe mill,a\rthe cat\r")
    with pytest.raises(ValueError, match=r"^row 2 \(line 3\) of .*it has 1 field"):
        rows(path)


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ";"), ("a.csv", "|"), ("a.csv", "\t"), ("a.tsv", ","), ("a.tsv", ";")]
)
def test_a_header_says_what_separates_the_fields(tmp_path, name, delimiter):
    other = "," if name == "a.csv" else "\t"
    content = f'text{delimiter}label\none{other} two{delimiter}x\n"a{delimiter}b"{delimiter}y\n'
    path = write(tmp_path, name, content)
    assert rows(path, read_csv if name == "a.csv" else read_tsv) == [
        {"text": f"one{other} two", "label": "x"},
        {"text": f"a{delimiter}b", "label": "y"},
    ]


def test_a_column_alone_needs_no_delimiter(tmp_path):
    assert rows(write(tmp_path, "a.csv", "text\none; two\n\nthree|four\n")) == [
        {"text": "one; two"},
        {"text": "three|four"},
    ]


def test_one_column_may_have_no_name_as_that_of_the_rows_numbers(tmp_path):
    assert rows(write(tmp_path, "a.csv", ",text\n0,a\n")) == [{"": "0", "text": "a"}]


def test_words_for_nothing_are_text(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\nnan,NA\nnull,None\n")
    assert rows(path) == [{"text": "nan", "label": "NA"}, {"text": "null", "label": "None"}]


def test_a_table_may_stand_in_an_archive(tmp_path):
    content = "text,label\na,x\n"
    assert rows(write(tmp_path, "a.csv.gz", gzip.compress(content.encode()))) == [{"text": "a", "label": "x"}]


def test_quotes_are_text_where_the_config_says_so(tmp_path):
    path = write(tmp_path, "a.tsv", 'text\tlabel\n"no" he said, "\tx\n')
    assert [row.values for row in read_tsv(path, quotes="none")] == [
        {"text": '"no" he said, "', "label": "x"}
    ]
    with pytest.raises(ValueError, match=r"where quotes are text use data\.quotes=none"):
        list(read_tsv(path))


def test_a_field_may_be_longer_than_the_csv_module_allows_at_first(tmp_path):
    path = write(tmp_path, "a.csv", "text\n" + "x" * 200_000 + "\n")
    assert [len(row.values["text"]) for row in read_csv(path)] == [200_000]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "text,label\na,x\nb\n",
            r"^row 2 \(line 3\) of .*a.csv cannot be read \(it has 1 field, the header has 2\)",
        ),
        ("text,label\na,x,y\n", r"^row 1 \(line 2\) of .*it has 3 fields, the header has 2"),
        (
            'text,label\n"a" b,x\n',
            r"^row 1 \(line 2\) of .*expected after '\"'; a quote inside quotes is written",
        ),
        ('text,label\n"a,x\nb,y\n', r"^row 1 \(line 2\) of .*unexpected end of data"),
        ("sep=;\ntext;label\na;x\n", r"^the header of .*'sep=;?' is Excel's note; delete that line"),
        ("text,text\na,b\n", r"a.csv names the column 'text' twice; give each column a name of its own"),
        (b"text\na\n\xff\n", r"^line 3 of .*a.csv is not UTF-8 at byte 0 \(0xff\); if it is LATIN1, convert"),
        ("text,label\na\0,x\n", r"^line 2 of .*a.csv cannot be read \(it holds a NUL at character 2, and is"),
        (",,text\n1,2,a\n", r"a.csv has 2 columns without a name; give each a name of its own$"),
        (
            "text;label\na;x\nb\n",
            r"^row 2 \(line 3\) of .*it has 1 field, the header has 2, separated by semi",
        ),
        (
            "text;label|id\na;x|1\n",
            r"the header of .*a.csv has no commas, but semicolons and pipes; separate its",
        ),
    ],
)
def test_an_unreadable_row_is_named_with_its_reason_in_one_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        list(read_csv(write(tmp_path, "a.csv", content)))
    assert "\n" not in str(caught.value)


def test_rows_before_a_bad_one_are_read(tmp_path):
    rows = read_csv(write(tmp_path, "a.csv", "text,label\na,x\nb\n"))
    assert next(rows).values == {"text": "a", "label": "x"}


def test_parquet_gives_the_values_of_its_columns(tmp_path):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    columns = {"text": ["a", "é"], "label": [1, None], "words": [["x"], ["y", "z"]]}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=1)
    assert [row.values for row in read_parquet(path)] == [
        {"text": "a", "label": 1, "words": ["x"]},
        {"text": "é", "label": None, "words": ["y", "z"]},
    ]


def test_parquet_that_python_cannot_hold_is_named(tmp_path):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    times = pyarrow.array([0, 2**62], pyarrow.timestamp("us"))
    parquet.write_table(pyarrow.table({"time": times}), path)
    with pytest.raises(
        ValueError, match=r"^row 1 of .*a\.parquet cannot be read \(.*\); correct or delete it$"
    ):
        list(read_parquet(path))


def test_columns_of_one_name_in_parquet_are_refused(tmp_path):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"]), path)
    with pytest.raises(ValueError, match=r"a\.parquet names the column 'text' twice"):
        list(read_parquet(path))


def test_parquet_in_an_archive_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"is a Parquet table in an archive, and compressed itself; unpack it$"
    ):
        list(read_parquet(write(tmp_path, "a.parquet.gz", b"")))


def test_damaged_parquet_is_named(tmp_path):
    path = write(tmp_path, "a.parquet", b"PAR1 and nothing of the kind")
    with pytest.raises(
        ValueError, match=r"^row 1 of .*a.parquet cannot be read \(.*\); correct or delete it$"
    ):
        list(read_parquet(path))


def test_parquet_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(
        ValueError, match=r"a.parquet needs pyarrow to be read; pip install 'flaxmill\[tasks\]'"
    ):
        list(read_parquet(write(tmp_path, "a.parquet", b"PAR1")))
