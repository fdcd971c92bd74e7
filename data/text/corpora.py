"""Text files, and tables with a column of text, as a stream of documents of bounded length."""

import functools
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from flaxmill.data.config import DataConfig, Documents
from flaxmill.data.files.archives import EXPANSION, format_suffix, is_archive, open_bytes
from flaxmill.data.files.encodings import not_utf8
from flaxmill.data.files.rows import Reader, Row, check_unicode, is_missing
from flaxmill.data.files.sources import (
    InputSource,
    InputSources,
    Log,
    find_files,
    make_file_source,
    read_once,
)
from flaxmill.data.files.tables import find_reader
from flaxmill.data.messages import did_you_mean

# A piece of a long file is one document: short enough to keep memory flat and the held-out draw fair.
MAX_DOCUMENT_BYTES = 32 * 1024
# A file without blank lines must not be read whole; an article of 1 MiB is far beyond the longest real one.
MAX_LINED_DOCUMENT_BYTES = 1024 * 1024

_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")
_CODE_SUFFIXES = {".py", ".c", ".h", ".cc", ".cpp", ".rs", ".go", ".java", ".js", ".ts", ".sh", ".sql"}

Sentences = Literal["prose", "lines"]


class Document(NamedTuple):
    """One text, whether its sentences are sentences of prose or lines, and where the text is."""

    text: str
    sentences: Sentences
    place: str = ""


def text_sources(config: DataConfig, field: Literal["files", "valid_files"], log: Log) -> InputSources:
    """The files that data.files or data.valid_files (`field`) name, as documents.

    Raises ValueError, naming the field, where a pattern matches no file, or matches a file without text.
    """
    patterns, name = getattr(config, field), f"data.{field}"
    sources = [_file_source(path, config, name) for path in find_files(patterns, name)]
    return read_once(f"{name}={', '.join(patterns)}", sources, log)


def cut_text(text: str, sentences: Sentences) -> Iterator[Document]:
    """The pieces of a text in memory, cut as a file's text is."""
    data = text.encode()
    while data:
        end = _cut_place(data, is_last=True)
        piece = data[:end].decode()
        if piece.strip():
            yield Document(piece, sentences)
        data = data[end:]


def _file_source(path: Path, config: DataConfig, field: str) -> InputSource:
    reader = find_reader(path, config.quotes)
    expansion = EXPANSION if is_archive(path) or format_suffix(path) == ".parquet" else 1
    if reader is None:
        read = functools.partial(_read_file, path, config.documents)
        return make_file_source(path, field, read, expansion=expansion)
    read = functools.partial(_read_table, path, reader, config)
    read_as = (config.text_column, config.quotes)
    return make_file_source(path, field, read, read_as=read_as, expansion=expansion)


def _read_file(path: Path, documents: Documents) -> Iterator[Document]:
    is_lined = documents == "blank_lines" or format_suffix(path) in _CODE_SUFFIXES
    with open_bytes(path) as file:
        for offset, piece in _pieces(file, documents):
            text = _decode(piece, path, offset)
            if text.strip():
                place = f"the text at byte {offset} of {path}"
                yield Document(text, "lines" if is_lined else "prose", place)


def _read_table(path: Path, reader: Reader, config: DataConfig) -> Iterator[Document]:
    """Each row's text, read like a file; rows without text are skipped."""
    sentences = "lines" if config.documents == "blank_lines" else "prose"
    for row in reader(path):
        data = _text_of(row, config.text_column).encode()
        for offset, piece in _pieces(io.BufferedReader(io.BytesIO(data)), config.documents):
            text = _decode(piece, path, offset)
            if text.strip():
                yield Document(text, sentences, row.place)


def _text_of(row: Row, column: str) -> str:
    if column not in row.values:
        names = [str(name) for name in row.values]
        raise ValueError(
            f"data.text_column={column!r} is not a column of {row.place}; it has {', '.join(names)}; "
            f"{did_you_mean(column, names) or 'name one of these'}, or give the file the suffix .txt to read "
            "it as it is"
        )
    text = row.values[column]
    if is_missing(text):
        return ""
    if not isinstance(text, str):
        raise ValueError(f"{row.place}: {column!r} holds {text!r:.60}, which is not text; give a string")
    check_unicode(text, row.place, column)
    return text


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


def _decode(piece: bytes, path: Path, offset: int) -> str:
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError as error:
        place = f"text file {str(path)!r} is not UTF-8 at byte {offset + error.start}"
        raise not_utf8(place, piece, error, path) from None
    if offset == 0:
        text = text.removeprefix("\ufeff")
    return text.replace("\r\n", "\n")
