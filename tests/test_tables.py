"""Tables are read row by row, and a row that cannot be is named with its file, place and reason."""

import json

import pytest

from flaxmill.data.tables import read_csv, read_jsonl, read_parquet, read_tsv


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
            r"^row 2 \(line 3\) of .*a.csv cannot be read \(it has 1 fields, the header has 2\)",
        ),
        ("text,label\na,x,y\n", r"^row 1 \(line 2\) of .*it has 3 fields, the header has 2"),
        (
            'text,label\n"a" b,x\n',
            r"^row 1 \(line 2\) of .*expected after '\"'; a quote inside quotes is written",
        ),
        ('text,label\n"a,x\nb,y\n', r"^row 1 \(line 2\) of .*unexpected end of data"),
        ("text,text\na,b\n", r"a.csv names the column 'text' twice; give each column a name of its own"),
        (b"text\na\n\xff\n", r"^line 3 of .*a.csv is not UTF-8 at byte 0 \(0xff\); convert the file"),
    ],
)
def test_an_unreadable_row_is_named_with_its_reason_in_one_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        list(read_csv(write(tmp_path, "a.csv", content)))
    assert "\n" not in str(caught.value)


def test_rows_before_a_bad_one_are_read(tmp_path):
    rows = read_csv(write(tmp_path, "a.csv", "text,label\na,x\nb\n"))
    assert next(rows).values == {"text": "a", "label": "x"}


def test_json_lines_are_objects(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "é", "n": 1}\n\n{"words": ["a", "b"]}\n')
    rows = list(read_jsonl(path))
    assert [row.values for row in rows] == [{"text": "é", "n": 1}, {"words": ["a", "b"]}]
    assert rows[1].place == f"row 2 of {path}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', r"^row 2 of .*a.jsonl cannot be read \(Expecting ',' delimiter at character \d+\)"),
        ('["text"]', r"^row 2 of .*it is no object, but '\[\"text\"\]'\); correct or delete it$"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        list(read_jsonl(write(tmp_path, "a.jsonl", json.dumps({"text": "a"}) + f"\n{line}\n")))


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
