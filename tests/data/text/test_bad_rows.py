"""A bad row is an error with file and line, or is skipped and counted; what only looks bad is read right."""

import json
import random
import time
from typing import Any

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.text.corpora import text_sources

GOOD_ROWS = {
    "jsonl": [b'{"text": "one"}\n', b'{"text": "two, \\"three\\""}\n', b'{"text": "four\\nfive"}\n'],
    "csv": [b"one\n", b'"two, ""three"""\n', b'"four\nfive"\n'],
    "tsv": [b"one\n", b'"two, ""three"""\n', b'"four\nfive"\n'],
}
GOOD = ["one", 'two, "three"', "four\nfive"]
BAD_ROWS = {
    "jsonl": [
        b'{"text": "\xff"}\n',
        b'{"text": "a\x00b"}\n',
        b'{"text": "a"\n',
        b'{"txt": "a"}\n',
        b'{"text": 5}\n',
        b'["a"]\n',
        b'{"text": "\\ud83d"}\n',
        b'{"text": "a", "text": "b"}\n',
        b'{"text": ["a"]}\n',
        b"[" * 5000 + b"\n",
    ],
    "csv": [b"\xff\n", b"a\x00b\n", b"a,b\n", b'"a"b\n', b'"a\n\xff\n"\n'],
    "tsv": [b"\xff\n", b"a\x00b\n", b"a\tb\n", b'"a"b\n', b'"a\n\x00\n"\n'],
}
CASES = [
    (kind, number, place)
    for kind, rows in BAD_ROWS.items()
    for number in range(len(rows))
    for place in (0, 1, 3)
    # A .jsonl that begins with a bracket is taken for an array.
    if place or not rows[number].startswith(b"[")
]


def read(path, bad_rows: Any = "error", **settings: Any):
    """The texts of a file, and how many bad rows were skipped."""
    sources = text_sources(DataConfig(bad_rows=bad_rows, **settings), [str(path)], "data.files", print)
    texts = [document.text for document in sources.read()]
    return texts, sources.skipped.total if sources.skipped else None


def write(path, rows):
    header = b"" if path.suffix == ".jsonl" else b"text\n"
    path.write_bytes(header + b"".join(rows))
    return path


@pytest.mark.parametrize(("kind", "number", "place"), CASES)
def test_a_bad_row_is_named_or_skipped_and_counted_wherever_it_is(tmp_path, kind, number, place):
    rows = list(GOOD_ROWS[kind])
    rows.insert(place, BAD_ROWS[kind][number])
    path = write(tmp_path / f"a.{kind}", rows)
    with pytest.raises(ValueError, match=rf"(row|line) \d+ .*{path}") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert read(path, "skip") == (GOOD, 1)


@pytest.mark.parametrize("kind", GOOD_ROWS)
def test_any_mixture_of_rows_gives_the_good_ones_and_the_count_of_the_others(tmp_path, kind):
    for seed in range(20):
        choose = random.Random(seed)
        rows, texts = [GOOD_ROWS[kind][0]], [GOOD[0]]
        for _ in range(30):
            number = choose.randrange(3)
            if choose.random() < 0.5:
                rows.append(choose.choice(BAD_ROWS[kind]))
            else:
                rows.append(GOOD_ROWS[kind][number])
                texts.append(GOOD[number])
        assert read(write(tmp_path / f"a.{kind}", rows), "skip") == (texts, 31 - len(texts))


def test_reading_again_counts_again_from_none(tmp_path):
    path = write(tmp_path / "a.jsonl", [*GOOD_ROWS["jsonl"], b"{\n", b"{\n"])
    sources = text_sources(DataConfig(bad_rows="skip"), [str(path)], "data.files", print)
    assert sources.skipped is not None
    for _ in range(3):
        list(sources.read())
        assert sources.skipped.total == 2


def test_a_file_of_bad_rows_alone_is_an_error(tmp_path):
    path = write(tmp_path / "a.jsonl", [b'{"txt": "a"}\n', b'{"txt": "b"}\n'])
    with pytest.raises(ValueError, match=r"not a column of row 1 of .*; it has txt; did you mean txt\?"):
        read(path, "skip")


@pytest.mark.parametrize("bad_rows", ["error", "skip"])
@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"body\none\n", r"data\.text_column='text' is not a column of row 1"),
        ("a.csv", b'text\none\n"two\nthree\n', r"row 2 \(line 3\) of .* \(unexpected end of data"),
        ("a.csv", b"te\xffxt\none\n", r"line 1 of .*a\.csv is not UTF-8 at byte 2"),
        ("a.json", b'[{"text": "one"}, {"text"]', r"a\.json cannot be read \("),
        ("a.txt", "text".encode("utf-16"), r"a\.txt is UTF-16, as its first bytes say"),
        ("a.jsonl", b'[{"text": "one"}]', r"a\.jsonl is a JSON array"),
    ],
)
def test_a_fault_of_the_whole_file_is_always_an_error(tmp_path, bad_rows, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / name, bad_rows)
    assert "\n" not in str(caught.value)


def test_bad_values_of_an_array_are_skipped(tmp_path):
    values = [{"text": "one"}, 5, {"txt": "a"}, {"text": {}}, {"text": "two"}]
    (tmp_path / "a.json").write_text(json.dumps(values))
    assert read(tmp_path / "a.json", "skip") == (["one", "two"], 3)


@pytest.mark.parametrize("documents", ["files", "blank_lines"])
def test_a_piece_of_text_that_is_not_utf8_is_skipped(tmp_path, documents):
    good = "A line of prose.\n" * 1000 + "\n"
    (tmp_path / "a.txt").write_bytes(good.encode() + b"\xff" * 200 + good[3:].encode() + good.encode() * 4)
    texts, skipped = read(tmp_path / "a.txt", "skip", documents=documents)
    assert skipped == 1
    assert "\ufffd" not in "".join(texts)
    assert len("".join(texts)) >= 3 * len(good)


def test_a_byte_order_mark_is_read_over(tmp_path):
    mark = b"\xef\xbb\xbf"
    for kind, rows in GOOD_ROWS.items():
        path = write(tmp_path / f"a.{kind}", rows)
        path.write_bytes(mark + path.read_bytes())
        for bad_rows in ("error", "skip"):
            assert read(path, bad_rows)[0] == GOOD
    (tmp_path / "a.txt").write_bytes(mark + b"one")
    assert read(tmp_path / "a.txt") == (["one"], None)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1e"])
def test_what_only_unicode_calls_a_line_end_is_text(tmp_path, mark):
    text = f"one{mark}two"
    files = {"a.txt": text, "a.csv": f"text\n{text}\n", "a.tsv": f"text\n{text}\n"}
    if mark in "\u2028\u2029\x85":  # JSON must escape the others
        files["a.jsonl"] = json.dumps({"text": text}, ensure_ascii=False)
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
        for bad_rows in ("error", "skip"):
            assert read(tmp_path / name, bad_rows)[0] == [text], name


def test_a_return_alone_ends_a_line_of_csv_and_tsv_and_is_text_elsewhere(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'text,n\rone,1\r"two\rthree",2\r')
    (tmp_path / "a.tsv").write_bytes(b"text\tn\rone\t1\r")
    (tmp_path / "a.txt").write_bytes(b"one\rtwo")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one\\rtwo"}\r\n{"text":\r"three"}\n')
    for bad_rows in ("error", "skip"):
        assert read(tmp_path / "a.csv", bad_rows)[0] == ["one", "two\rthree"]
        assert read(tmp_path / "a.tsv", bad_rows)[0] == ["one"]
        assert read(tmp_path / "a.txt", bad_rows)[0] == ["one\rtwo"]
        assert read(tmp_path / "a.jsonl", bad_rows)[0] == ["one\rtwo", "three"]


def test_a_bad_row_between_returns_is_skipped_alone(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text\rone\r\xff\rtwo\ra\x00\rthree\r")
    assert read(tmp_path / "a.csv", "skip") == (["one", "two", "three"], 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv"])
@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_a_line_of_50_million_bytes_is_read_whole(tmp_path, name, bad_rows):
    text = "Zwölf words of one line and no end of it " * 1_200_000
    content = {"a.jsonl": '{"text": "' + text + '"}\n', "a.txt": text}.get(name, f"text\n{text}\n")
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert (tmp_path / name).stat().st_size > 50_000_000
    started = time.monotonic()
    texts, _ = read(tmp_path / name, bad_rows)
    assert "".join(texts) == text
    # It takes about a second; cutting one text again and again would take minutes.
    assert time.monotonic() - started < 60
