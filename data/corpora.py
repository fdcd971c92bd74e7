"""Text files as a stream of documents: found, checked to be UTF-8, and cut to bounded pieces."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from flaxmill.data.config import Documents
from flaxmill.data.local_paths import match_files

# A piece of a long file is one document: short enough to keep memory flat and the held-out draw fair.
MAX_DOCUMENT_BYTES = 32 * 1024
# A file without blank lines must not be read whole; an article of 1 MiB is far beyond the longest real one.
MAX_LINED_DOCUMENT_BYTES = 1024 * 1024

_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")
_CODE_SUFFIXES = {".py", ".c", ".h", ".cc", ".cpp", ".rs", ".go", ".java", ".js", ".ts", ".sh", ".sql"}


class Document(NamedTuple):
    """One text, and what a sentence of it is: a sentence of prose, or a line."""

    text: str
    sentences: Literal["prose", "lines"]


class Corpus(NamedTuple):
    """A named source of documents; `inventory` tells without reading whether it changed."""

    name: str
    inventory: list[list]
    num_bytes: int
    documents: Callable[[], Iterator[Document]]


def file_corpus(patterns: Sequence[str], documents: Documents, field: str) -> Corpus:
    """The files that the patterns match. Raises ValueError, naming the field, where one matches none."""
    paths = find_files(patterns, field)
    try:
        stats = [path.stat() for path in paths]
    except OSError as error:
        raise ValueError(f"{field} cannot be read ({error}); check its permissions") from None
    inventory: list[list] = [
        [str(path), stat.st_size, stat.st_mtime_ns] for path, stat in zip(paths, stats, strict=True)
    ]

    def stream() -> Iterator[Document]:
        for path in paths:
            yield from _read_file(path, documents)

    return Corpus(f"{field}={', '.join(patterns)}", inventory, sum(stat.st_size for stat in stats), stream)


def find_files(patterns: Sequence[str], field: str) -> list[Path]:
    """Absolute paths that the patterns match, in order. Raises ValueError where one matches none."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches = match_files(pattern)
        if not matches:
            raise ValueError(f"{field}={pattern!r} names no file; give an existing text file or glob")
        for match in matches:
            if os.path.isdir(match):
                if len(matches) > 1:
                    continue
                raise ValueError(f"{field}={match!r} is a directory; give its files, as in {match}/*.txt")
            found[Path(match).absolute()] = None
    if not found:
        raise ValueError(f"{field}={list(patterns)!r} match directories only; give text files")
    return list(found)


def cut_text(text: str, sentences: Literal["prose", "lines"]) -> Iterator[Document]:
    """The pieces of a text in memory, cut as those of a file."""
    data = text.encode()
    while data:
        end = _cut_place(data, is_last=True)
        piece = data[:end].decode()
        if piece.strip():
            yield Document(piece, sentences)
        data = data[end:]


def _read_file(path: Path, documents: Documents) -> Iterator[Document]:
    try:
        with open(path, "rb") as file:
            if documents == "blank_lines":
                pieces, sentences = _lined_pieces(file), "lines"
            else:
                pieces, sentences = _bounded_pieces(file), _sentences_of(path)
            for offset, piece in pieces:
                text = _decode(piece, path, offset)
                if text.strip():
                    yield Document(text, sentences)
    except OSError as error:
        raise ValueError(f"text file {str(path)!r} cannot be read ({error.strerror}); check it") from None


def _sentences_of(path: Path) -> Literal["prose", "lines"]:
    return "lines" if path.suffix in _CODE_SUFFIXES else "prose"


def _bounded_pieces(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
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


def _lined_pieces(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of the runs of lines between blank lines."""
    start, offset, lines, size = 0, 0, [], 0
    for line in _lines(file):
        offset += len(line)
        if line.strip():
            lines.append(line)
            size += len(line)
        if lines and (not line.strip() or size >= MAX_LINED_DOCUMENT_BYTES):
            yield start, b"".join(lines)
            lines, size = [], 0
        if not lines:
            start = offset
    if lines:
        yield start, b"".join(lines)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines; an endless one is cut, but never inside a character."""
    while line := file.readline(MAX_LINED_DOCUMENT_BYTES):
        while len(line) >= MAX_LINED_DOCUMENT_BYTES and not line.endswith(b"\n"):
            following = file.read(1)
            if not following or following[0] & 0xC0 != 0x80:
                file.seek(-len(following), 1)
                break
            line += following
        yield line


def _decode(piece: bytes, path: Path, offset: int) -> str:
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text file {str(path)!r} is not UTF-8 at byte {offset + error.start} "
            f"(0x{piece[error.start]:02x}); convert it, for example with iconv -t UTF-8"
        ) from None
    if offset == 0:
        text = text.removeprefix("\ufeff")
    return text.replace("\r\n", "\n")
