"""metrics.jsonl: one object for each logged step, append-only, written exactly."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

MetricsRow = dict[str, Any]

_BLOCK = 64 * 1024


class MetricsWriter:
    """Appends rows to a file; `sync` puts all of them on disk before a checkpoint commits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Unbuffered: what could not be written must not come back when the file is closed.
        self._file = path.open("ab+", buffering=0)
        if self._file.tell() and not _ends_line(path):
            self._write(b"\n")  # a killed writer left a torn line: it must not swallow the next row

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a row: floats by repr, so that runs can be compared bit for bit; non-finite ones as null.

        Raises:
          OSError: the row could not be written whole.
        """
        exact = {name: _json_value(value) for name, value in row.items()}
        self._write(json.dumps(exact, allow_nan=False).encode() + b"\n")

    def sync(self) -> None:
        """Put all rows on the disk."""
        os.fsync(self._file.fileno())

    def _write(self, line: bytes) -> None:
        problem = "the disk is full"
        try:
            if self._file.write(line) == len(line):
                return
        except OSError as error:
            problem = (error.strerror or str(error)).lower()
        raise OSError(
            f"{self._path} could not be written ({problem}); make room: the same command continues the run"
        )

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def read_metrics(path: Path) -> Iterator[MetricsRow]:
    """The rows in the order written; a line that is not a row, such as a torn one, is passed over.

    Raises ValueError where `path` is not a file.
    """
    yield from filter(None, read_lines(path))


def read_lines(path: Path) -> Iterator[MetricsRow | None]:
    """Each line's row in the order written, None for a line that is not a row.

    Raises ValueError where `path` is not a file.
    """
    _require_file(path)
    with path.open("rb") as file:
        yield from map(_parse, file)


def read_newest_metrics(path: Path) -> Iterator[MetricsRow]:
    """The rows of `read_metrics`, the newest first; of a long file only what is asked for is read.

    Raises ValueError where `path` is not a file.
    """
    _require_file(path)
    with path.open("rb") as file:
        yield from filter(None, map(_parse, _lines_from_end(file)))


def _require_file(path: Path) -> None:
    if not path.is_file():
        what = "is not a file" if os.path.lexists(path) else "is missing"
        raise ValueError(f"{path} {what}; put it back: it says what the run has measured, and when")


def _parse(line: bytes) -> MetricsRow | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _lines_from_end(file: BinaryIO) -> Iterator[bytes]:
    end = file.seek(0, os.SEEK_END)
    begun = b""  # the end of a line whose beginning is not read yet
    while end:
        begin = max(0, end - _BLOCK)
        file.seek(begin)
        begun, *lines = (file.read(end - begin) + begun).split(b"\n")
        yield from reversed(lines)
        end = begin
    yield begun


def has_step(row: MetricsRow) -> bool:
    """Whether the row is of a step; a row that was changed by hand need not be."""
    return type(row.get("step")) is int


def _json_value(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
