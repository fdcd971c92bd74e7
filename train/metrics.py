"""metrics.jsonl: one object a logged step, append-only, written exactly."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class MetricsWriter:
    """Appends rows to a file; `sync` puts all of them on disk before a checkpoint commits."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab+")
        if self._file.tell() and not _ends_line(path):
            self._file.write(b"\n")  # a killed writer left a torn line: it must not swallow the next row

    def write(self, row: Mapping[str, Any]) -> None:
        """Floats are written by repr, so that runs can be compared bit for bit; non-finite as null."""
        exact = {name: _json_value(value) for name, value in row.items()}
        self._file.write(json.dumps(exact, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def read_metrics(path: Path) -> Iterator[Row]:
    """The rows in the order written; torn lines are passed over."""
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


def _json_value(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
