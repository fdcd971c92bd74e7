"""The texts of a file come in its order, and none is left out."""

import gzip
import json

import pytest

from flaxmill.data.text.texts import read_texts

TEXTS = ["one text", "", "été, 東京", "the last"]


def write(path, rows):
    match path.suffix:
        case ".txt":
            path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        case ".csv":
            path.write_text("n,text\n" + "".join(f'{n},"{row}"\n' for n, row in enumerate(rows)), "utf-8")
        case ".jsonl":
            path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
        case ".parquet":
            pyarrow = pytest.importorskip("pyarrow")
            parquet = pytest.importorskip("pyarrow.parquet")
            parquet.write_table(pyarrow.table({"text": rows}), path)
    return str(path)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".parquet"])
def test_each_format_gives_the_same_texts(tmp_path, suffix):
    assert read_texts([write(tmp_path / f"a{suffix}", TEXTS)]) == TEXTS


def test_lines_may_end_as_on_windows_and_the_last_may_not_end(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo")
    assert read_texts([str(tmp_path / "a.txt")]) == ["one", "", "two"]


def test_files_follow_each_other_and_may_be_compressed(tmp_path):
    write(tmp_path / "b.txt", ["three"])
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write("one\ntwo\n")
    assert read_texts([str(tmp_path / "*.txt*")]) == ["one", "two", "three"]


def test_a_missing_value_is_an_empty_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": "b"}\n')
    assert read_texts([str(tmp_path / "a.jsonl")]) == ["", "b"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "title,body\nx,y\n", "'text' is not a column of row 1 .*a.csv; it has title, body"),
        ("a.jsonl", '{"text": 3}\n', "'text' holds 3, which is not text"),
        ("a.md", "x\n", "suffix '.md' names no format; use .txt"),
    ],
)
def test_what_holds_no_texts_is_refused(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=said):
        read_texts([str(tmp_path / name)])


def test_an_absent_column_of_parquet_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet", TEXTS)
    with pytest.raises(ValueError, match=r"'body' is not a column of .*; it has text"):
        read_texts([path], "body")


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--data=.*none.txt' names no file"):
        read_texts([str(tmp_path / "none.txt")])
