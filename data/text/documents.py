"""Text cut into documents of bounded length, each with its place."""

import io
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Literal, NamedTuple

import numpy as np

from flaxmill.data.config import Documents
from flaxmill.data.files.archives import format_suffix, open_bytes
from flaxmill.data.files.directories import CODE_SUFFIXES
from flaxmill.data.files.encodings import not_utf8
from flaxmill.data.files.rows import Refuse, raise_error

# A piece of a long file is one document: short enough to keep memory flat and the held-out draw fair.
MAX_DOCUMENT_BYTES = 32 * 1024
# A file without blank lines must not be read whole; an article of 1 MiB is far beyond the longest real one.
MAX_LINED_DOCUMENT_BYTES = 1024 * 1024

_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")

Sentences = Literal["prose", "lines"]


class Document(NamedTuple):
    """One text, whether its sentences are sentences of prose or lines, and where the text is.

    ids: the tokens of a document that was tokenized before; its text is then empty.
    targets: (start, end), in characters, of what the assistant wrote in a conversation; its text is rendered.
    """

    text: str
    sentences: Sentences
    place: str = ""
    ids: np.ndarray | None = None
    targets: tuple[tuple[int, int], ...] | None = None


def cut_text(text: str, sentences: Sentences) -> Iterator[Document]:
    """The pieces of a text in memory, cut as a file's text is."""
    data = text.encode()
    while data:
        end = _cut_place(data, is_last=True)
        piece = data[:end].decode()
        if piece.strip():
            yield Document(piece, sentences)
        data = data[end:]


def read_text(path: PurePath, documents: Documents, refuse: Refuse = raise_error) -> Iterator[Document]:
    """The documents of a text file. Pieces that are not UTF-8 are refused."""
    is_lined = documents == "blank_lines" or is_code(path)
    with open_bytes(path) as file:
        yield from _cut(file, documents, "lines" if is_lined else "prose", path, None, refuse)


def cut_row(
    text: str, documents: Documents, path: PurePath, place: str, refuse: Refuse = raise_error
) -> Iterator[Document]:
    """The documents of one row's text, which is read as a file of its own would be."""
    if documents == "files" and len(text) * (1 if text.isascii() else 4) <= MAX_DOCUMENT_BYTES:
        text = _tidy(text)
        return iter([Document(text, "prose", place)] if text.strip() else [])
    sentences = "lines" if documents == "blank_lines" else "prose"
    return _cut(io.BufferedReader(io.BytesIO(text.encode())), documents, sentences, path, place, refuse)


def is_code(path: PurePath) -> bool:
    """Whether the suffix says that the file is source code, where each line is a sentence."""
    return format_suffix(path) in CODE_SUFFIXES


def _cut(
    file: io.BufferedReader,
    documents: Documents,
    sentences: Sentences,
    path: PurePath,
    place: str | None,
    refuse: Refuse,
) -> Iterator[Document]:
    for offset, piece in _pieces(file, documents):
        try:
            text = _decode(piece, path, offset)
        except ValueError as error:
            refuse(error)
            continue
        if text.strip():
            yield Document(text, sentences, place or f"the text at byte {offset} of {path}")


def _pieces(file: io.BufferedReader, documents: Documents) -> Iterator[tuple[int, bytes]]:
    return _lined_pieces(file) if documents == "blank_lines" else _bounded_pieces(file)


def _bounded_pieces(file: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of consecutive pieces of at most MAX_DOCUMENT_BYTES."""
    buffer, offset, is_last = b"", 0, False
    while True:
        if len(buffer) <= MAX_DOCUMENT_BYTES and not is_last:
            block = file.read(1 << 20)
            is_last = not block
            buffer += block
            continue
        if not buffer:
            return
        end = _cut_place(buffer, is_last)
        yield offset, buffer[:end]
        buffer, offset = buffer[end:], offset + end


def _cut_place(buffer: bytes, is_last: bool) -> int:
    """The end of the first piece: after a blank line, else a line, else a blank, else a character."""
    if is_last and len(buffer) <= MAX_DOCUMENT_BYTES:
        return len(buffer)
    window = buffer[:MAX_DOCUMENT_BYTES]
    for match in reversed(list(_BLANK_LINE.finditer(window))):
        return match.end()
    for mark in (b"\n", b" "):
        if (place := window.rfind(mark)) > 0:
            return place + 1
    end = len(window)
    # UTF-8 marks the bytes inside a character with 10 in the two upper bits.
    while end > len(window) - 4 and buffer[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _lined_pieces(file: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of the runs of lines between blank lines."""
    start, offset, lines, size = 0, 0, [], 0
    for line in _lines(file):
        offset += len(line)
        is_blank = _is_blank(line)
        if not is_blank:
            lines.append(line)
            size += len(line)
        if lines and (is_blank or size >= MAX_LINED_DOCUMENT_BYTES):
            yield start, b"".join(lines)
            lines, size = [], 0
        if not lines:
            start = offset
    if lines:
        yield start, b"".join(lines)


def _is_blank(line: bytes) -> bool:
    """Whether it holds only Unicode white space, as create_pretraining_data of google-research/bert tests."""
    left = line.strip()  # ASCII's white space
    return not left or (not 0x20 <= left[0] < 0x80 and not left.decode("utf-8", "replace").strip())


def _lines(file: io.BufferedReader) -> Iterator[bytes]:
    """Lines; an endless one is cut, but never inside a character."""
    while line := file.readline(MAX_LINED_DOCUMENT_BYTES):
        if len(line) >= MAX_LINED_DOCUMENT_BYTES and not line.endswith(b"\n"):
            while (following := file.peek(1)[:1]) and following[0] & 0xC0 == 0x80:
                line += file.read(1)
        yield line


def _decode(piece: bytes, path: PurePath, offset: int) -> str:
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError as error:
        place = f"text file {str(path)!r} is not UTF-8 at byte {offset + error.start}"
        raise not_utf8(place, piece, error, path) from None
    return _tidy(text) if offset == 0 else text.replace("\r\n", "\n")


def _tidy(text: str) -> str:
    """The beginning of a file without its byte-order mark, with \\n as the ends of lines."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n")
