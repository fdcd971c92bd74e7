"""Files become documents without loss, whatever their length, and bad bytes are found where they stand."""

from typing import Any

import pytest

from flaxmill.data import corpora
from flaxmill.data.corpora import MAX_DOCUMENT_BYTES, cut_text, file_corpus


def _texts(path, documents: Any = "files"):
    return [document.text for document in file_corpus([str(path)], documents, "data.files").documents()]


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


def test_blank_lines_separate_documents_when_asked(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\n\nOne.\nTwo.\n \t\n\r\nThree.\r\nFour.")
    assert _texts(path, "blank_lines") == ["One.\nTwo.\n", "Three.\nFour."]


def test_a_document_without_blank_lines_stays_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "MAX_LINED_DOCUMENT_BYTES", 100)
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {number}\n" for number in range(100)))
    texts = _texts(path, "blank_lines")
    assert "".join(texts) == path.read_text()
    assert max(map(len, texts)) < 200


def test_an_endless_line_is_cut_between_characters(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "MAX_LINED_DOCUMENT_BYTES", 100)
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
    corpus = file_corpus(patterns, "files", "data.files")
    assert [document.text for document in corpus.documents()] == ["a.txt", "b.txt", "c.md"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path):
    path = tmp_path / "a[1].txt"
    path.write_text("text")
    assert _texts(path) == ["text"]


@pytest.mark.parametrize("name", ["absent.txt", "*.absent"])
def test_a_pattern_without_files_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=r"^data\.files='.*absent.*' names no file"):
        file_corpus([str(tmp_path / name)], "files", "data.files")


def test_a_directory_is_refused_with_the_glob_to_use(tmp_path):
    with pytest.raises(ValueError, match=r"is a directory; give its files, as in .*/\*\.txt"):
        file_corpus([str(tmp_path)], "files", "data.files")


def test_the_inventory_changes_with_the_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = file_corpus([str(path)], "files", "data.files").inventory
    path.write_text("three")
    assert file_corpus([str(path)], "files", "data.files").inventory != before
