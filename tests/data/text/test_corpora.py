"""Files become documents without loss, whatever their length, and bad bytes are named with their place."""

import bz2
import gzip
import json
import lzma
import re
from typing import Any

import pytest
from small_tokenizers import directory_of
from token_writers import write_indexed

from flaxmill.data.config import DataConfig
from flaxmill.data.text import documents as documents_module
from flaxmill.data.text.corpora import text_sources
from flaxmill.data.text.documents import MAX_DOCUMENT_BYTES, cut_row, cut_text
from flaxmill.data.text.embedded_corpus import embedded_corpus
from flaxmill.data.text.sentences import split_sentences


def _sources(*patterns, log=lambda line: None, **fields: Any):
    config = DataConfig(files=tuple(map(str, patterns)), **fields)
    return text_sources(config, config.files, "data.files", log)


def _texts(path, documents: Any = "files", **fields: Any):
    return [document.text for document in _sources(path, documents=documents, **fields).read()]


def test_a_short_file_is_one_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("One.\n\nTwo.\n")
    assert _texts(path) == ["One.\n\nTwo.\n"]


@pytest.mark.parametrize("separator", ["\n\n", "\n", " ", ""])
def test_a_long_file_is_cut_to_bounded_pieces_that_join_to_the_whole(tmp_path, separator):
    path = tmp_path / "long.txt"
    text = separator.join(f"wört{number:06d}é" for number in range(12_000))
    path.write_text(text, encoding="utf-8")
    pieces = _texts(path)
    assert "".join(pieces) == text
    assert len(pieces) > 1
    assert max(len(piece.encode()) for piece in pieces) <= MAX_DOCUMENT_BYTES
    if separator:
        assert all(piece.endswith(separator) for piece in pieces[:-1])


def test_text_in_memory_is_cut_as_a_file_is(tmp_path):
    path = tmp_path / "long.txt"
    text = "\n\n".join(f"paragraph {number}\nof two lines" for number in range(5_000))
    path.write_text(text)
    assert [document.text for document in cut_text(text, "prose")] == _texts(path)


@pytest.mark.parametrize(
    "text", ["One.\r\n\n Two.\n", "\ufeffOne\ufeff", "Zwölf", "\x1c\u3000 \n", "", "wört " * 9000]
)
def test_a_row_of_text_is_cut_as_a_file_is(tmp_path, text):
    path = tmp_path / "row.txt"
    path.write_bytes(text.encode())
    assert [document.text for document in cut_row(text, "files", path, "row 1")] == _texts(path)


def test_blank_lines_separate_documents_when_asked(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\n\nOne.\nTwo.\n \t\n\r\nThree.\r\nFour.")
    assert _texts(path, "blank_lines") == ["One.\nTwo.\n", "Three.\nFour."]


def test_a_document_without_blank_lines_stays_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(documents_module, "MAX_LINED_DOCUMENT_BYTES", 100)
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {number}\n" for number in range(100)))
    texts = _texts(path, "blank_lines")
    assert "".join(texts) == path.read_text()
    assert max(map(len, texts)) < 200


def test_an_endless_line_is_cut_between_characters(tmp_path, monkeypatch):
    monkeypatch.setattr(documents_module, "MAX_LINED_DOCUMENT_BYTES", 100)
    path = tmp_path / "a.txt"
    for text in ("x" + "é" * 520 + "\nend", "漢" * 333, "y" * 200):
        path.write_text(text, encoding="utf-8")
        assert "".join(_texts(path, "blank_lines")) == text


@pytest.mark.parametrize("documents", ["files", "blank_lines"])
@pytest.mark.parametrize("place", [0, 7, 40_000, 2_500_000])
def test_bytes_that_are_not_utf8_are_named_with_file_and_offset(tmp_path, documents, place):
    data = bytearray("Zwölf lines of text.\n\n".encode() * 120_000)
    while data[place] & 0xC0 == 0x80 or data[place] >= 0x80:
        place += 1
    data[place] = 0xFF
    path = tmp_path / "latin.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"latin\.txt' is not UTF-8 at byte {place} \(0xff\)") as caught:
        _texts(path, documents)
    assert "\n" not in str(caught.value)


def test_a_file_cut_inside_a_character_is_not_utf8(tmp_path):
    path = tmp_path / "cut.txt"
    path.write_bytes("abcé".encode()[:-1])
    with pytest.raises(ValueError, match="not UTF-8 at byte 3"):
        _texts(path)


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "bom.txt"
    path.write_bytes(b"\xef\xbb\xbfOne.")
    assert _texts(path) == ["One."]


def test_globs_find_files_in_order_and_each_once(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    patterns = [str(tmp_path / "*.txt"), str(tmp_path / "a.txt"), str(tmp_path / "c.md")]
    assert [document.text for document in _sources(*patterns).read()] == ["a.txt", "b.txt", "c.md"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path):
    path = tmp_path / "a[1].txt"
    path.write_text("text")
    assert _texts(path) == ["text"]


@pytest.mark.parametrize("name", ["absent.txt", "*.absent"])
def test_a_pattern_without_files_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=r"^data\.files='.*absent.*' names no file"):
        _sources(tmp_path / name)


def test_a_directory_is_its_files_at_any_depth(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "c" / "x.jsonl").write_text('{"text": "three"}')
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b" / "a.csv").write_text("text\ntwo\n")
    (tmp_path / "z.png").write_bytes(b"\x89PNG")
    assert _texts(tmp_path) == ["one", "two", "three"]
    assert [entry[0] for entry in _sources(tmp_path).inventory] == [
        f"{tmp_path}/{name}" for name in ("a.txt", "b/a.csv", "b/c/x.jsonl")
    ]


def test_a_glob_of_directories_and_files_takes_the_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b.txt").write_text("one")
    assert _texts(tmp_path / "*") == ["one"]


@pytest.mark.parametrize(
    ("part", "guess"), [("", ""), ("proze", "did you mean prose?"), ("classification", "")]
)
def test_an_unknown_part_of_the_embedded_corpus_gets_a_guess(part, guess):
    message = (
        rf"^data\.files=embedded:{part} names no part .*, which has all, prose, code; .*{re.escape(guess)}"
    )
    with pytest.raises(ValueError, match=message):
        _sources(f"embedded:{part}")


def test_the_inventory_of_the_embedded_corpus_is_its_own():
    assert _sources("embedded:code").inventory == embedded_corpus("code").inventory


def test_an_unknown_column_of_a_parquet_table_gets_a_guess(tmp_path):
    path = write_rows(tmp_path / "a.parquet")
    message = (
        r"^data\.text_column='txt' is not a column of .*a\.parquet; it has id, text; did you mean text\?$"
    )
    with pytest.raises(ValueError, match=message):
        _texts(path, text_column="txt")


def test_another_column_does_not_matter(tmp_path):
    """A column that Python has no values for is not read."""
    import pyarrow
    from pyarrow import parquet

    far = pyarrow.array([10**7], pyarrow.int32()).cast(pyarrow.date32())
    parquet.write_table(pyarrow.table({"text": ["one"], "when": far}), tmp_path / "a.parquet")
    assert _texts(tmp_path / "a.parquet") == ["one"]


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n" * 20_000)
    documents = _sources(path).read()
    next(documents)
    with open(path, "a") as file:
        file.write("two\n")
    with pytest.raises(
        ValueError, match=r"a\.txt changed while it was read; start again when nothing writes"
    ):
        list(documents)


def test_a_file_that_goes_away_while_it_is_read_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n" * 20_000)
    documents = _sources(path).read()
    next(documents)
    path.unlink()
    with pytest.raises(ValueError, match=r"a\.txt changed while it was read"):
        list(documents)


def test_an_index_stands_for_its_file(tmp_path):
    path = write_indexed(tmp_path / "a.bin", [[[5, 6]], [[7]]])
    for spec in (path, path.with_suffix(".idx"), tmp_path / "a.*"):
        documents = _sources(spec, tokenizer=str(directory_of("gpt2"))).read()
        assert [document.ids.tolist() for document in documents] == [[5, 6], [7]]


def test_an_empty_list_of_ids_is_no_document(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": [5, 6]}\n{"text": []}\n{"text": null}\n{"text": [7]}\n')
    documents = _sources(path, tokenizer=str(directory_of("gpt2"))).read()
    assert [document.ids.tolist() for document in documents] == [[5, 6], [7]]


def test_the_inventory_changes_with_the_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = _sources(path).inventory
    path.write_text("three")
    assert _sources(path).inventory != before


@pytest.mark.parametrize("line", ["\u3000", "\xa0 \t", "\x1c", "\x0c", "\u2028\u3000\r"])
def test_a_line_of_unicode_blanks_ends_a_document(tmp_path, line):
    path = tmp_path / "a.txt"
    path.write_bytes(f"one\n{line}\ntwo\n".encode())
    assert _texts(path, "blank_lines") == ["one\n", "two\n"]


@pytest.mark.parametrize(
    "line", ["one half\u2028other half", "a\x0cb", "a\x85b", "a\rb", "\u3000a", "\xa0\x00"]
)
def test_a_line_ends_at_a_line_feed_alone(tmp_path, line):
    path = tmp_path / "a.txt"
    path.write_bytes(f"one\n{line}\r\ntwo\n".encode())
    (document,) = _sources(path, documents="blank_lines").read()
    assert split_sentences(document) == ["one", line, "two"]


def test_bad_bytes_are_no_blank_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n\xff\ntwo\n")
    with pytest.raises(ValueError, match="not UTF-8 at byte 4"):
        _texts(path, "blank_lines")


ROWS = ["The mill.\r\n\r\nIt turns.", "  ", 'A river, and "more".']
READ = ["The mill.\n\nIt turns.", 'A river, and "more".']


def write_rows(path, column="text"):
    rows = [{"id": number, column: text} for number, text in enumerate(ROWS)]
    match path.suffixes[0]:
        case ".jsonl":
            data = "".join(json.dumps(row) + "\n" for row in [*rows, {"id": 9, column: None}]).encode()
        case ".json":
            data = json.dumps(rows).encode()
        case ".csv" | ".tsv" as suffix:
            delimiter = "," if suffix == ".csv" else "\t"
            fields = [["id", column], *([str(row["id"]), row[column]] for row in rows)]
            quoted = [
                delimiter.join('"' + field.replace('"', '""') + '"' for field in line) for line in fields
            ]
            data = "\n".join(quoted).encode()
        case _:
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
            return path
    archives = {".gz": gzip, ".bz2": bz2, ".xz": lzma}
    path.write_bytes(archives[path.suffix].compress(data) if path.suffix in archives else data)
    return path


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.csv.bz2", "a.json.xz"]
)
def test_a_row_of_a_table_is_a_document(tmp_path, name):
    path = write_rows(tmp_path / name)
    assert _texts(path) == READ
    assert _texts(write_rows(path, "body"), text_column="body") == READ
    first, last = _sources(path, text_column="body").read()
    assert (first.place, last.place[:5]) == (f"row 1{' (line 2)' if 'sv' in name else ''} of {path}", "row 3")


def test_a_long_row_is_cut_as_a_file_is(tmp_path):
    text = "\n\n".join(f"paragraph {number}\nof two lines" for number in range(5_000))
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}))
    for documents in ("files", "blank_lines"):
        assert _texts(tmp_path / "a.jsonl", documents) == _texts(tmp_path / "a.txt", documents)


def test_an_archive_of_text_is_the_text(tmp_path):
    text = "\n".join(f"wört {number}" for number in range(20_000))
    (tmp_path / "a.txt").write_text(text)
    for name, archive in (("a.txt.gz", gzip), ("b.xz", lzma), ("a.py.bz2", bz2)):
        (tmp_path / name).write_bytes(archive.compress(text.encode()))
        assert _texts(tmp_path / name) == _texts(tmp_path / "a.txt")
    assert {document.sentences for document in _sources(tmp_path / "a.py.bz2").read()} == {"lines"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"txt": "a"},
            r"^data\.text_column='text' is not a column of row 2 of .*; it has txt; did you mean txt\?, or ",
        ),
        ({"text": 5}, r"^row 2 of .*a\.jsonl: 'text' holds 5, which is not text; give a string$"),
        ({"text": ["a"]}, r"^row 2 of .*'text' holds \['a'\], which is not text"),
        ({"text": "\ud83d"}, r"^row 2 of .* cannot be read \('text' has half a character at place 0\)"),
    ],
)
def test_a_row_that_is_no_text_is_named(tmp_path, row, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' + json.dumps(row))
    with pytest.raises(ValueError, match=message):
        _texts(path)


def test_what_decides_the_rows_is_in_the_inventory_of_tables_alone(tmp_path):
    table, text = write_rows(tmp_path / "a.jsonl"), tmp_path / "a.txt"
    text.write_text("text")
    entries = [_sources(table, text_column=column).inventory[0] for column in ("text", "body")]
    assert entries[0] != entries[1]
    stat = text.stat()
    assert _sources(text, text_column="body").inventory == [[str(text), stat.st_size, stat.st_mtime_ns]]
