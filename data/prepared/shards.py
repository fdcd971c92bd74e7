"""ArrayRecord shards under the names that TFDS looks for."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python import (
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue]  (a compiled module without stubs)
)

from flaxmill.data.prepared.records import RecordFormat
from flaxmill.data.whole_files import write_whole

DATASET_NAME = "flaxmill"
_SHARD_BYTES = 64 * 1024 * 1024
# A group of one record is what random access needs; tokens of 2 bytes hardly compress that way.
_WRITER_OPTIONS = "group_size:1,uncompressed"
# ArrayRecord reports the system's errors in words: "write() failed: No space left on device; writing ...".
_SYSTEM_ERROR = re.compile(r"\w+\(\) failed: ([^;]+)")
_ERROR_NUMBERS = {os.strerror(number): number for number in errno.errorcode}


class Shard(NamedTuple):
    """A file of a dataset and what it must hold."""

    file: str
    num_rows: int
    num_bytes: int


class WrittenShard(NamedTuple):
    """A whole file of rows that has no name in a dataset yet."""

    path: Path
    num_rows: int
    sha256: str


def rows_per_shard(record_format: RecordFormat) -> int:
    """The rows that make a shard of 64 MiB."""
    return max(1, _SHARD_BYTES // record_format.num_bytes)


def write_shard(
    path: Path, record_format: RecordFormat, batches: Iterable[Mapping[str, np.ndarray]]
) -> WrittenShard:
    """Writes rows, given as {field: [rows, ...]}, into a file that appears whole or not at all.

    Raises OSError where it cannot be written.
    """
    num_rows = 0

    def write(partial: Path) -> None:
        nonlocal num_rows
        writer = _open_writer(partial)
        try:
            for rows in batches:
                records = record_format.encode(rows)
                _write_records(writer, records)
                num_rows += len(records)
        finally:
            _close_writer(writer)

    write_whole(path, write)
    return WrittenShard(path, num_rows, hash_file(path))


class ShardWriter:
    """Writes rows into files of rows_per_shard rows. Close it to finish the last file.

    Its methods raise OSError where a file cannot be written.
    """

    def __init__(self, directory: Path, prefix: str, record_format: RecordFormat):
        self.num_rows = 0
        self.shards: list[WrittenShard] = []
        self._directory = directory
        self._prefix = prefix
        self._format = record_format
        self._path = directory
        self._rows_left = 0
        self._writer: array_record_module.ArrayRecordWriter | None = None

    def write(self, rows: Mapping[str, np.ndarray]) -> None:
        """Appends rows given as {field: [rows, ...]}."""
        records = self._format.encode(rows)
        while records:
            if not self._rows_left:
                self._open_next()
            now, records = records[: self._rows_left], records[self._rows_left :]
            _write_records(self._writer, now)
            self.num_rows += len(now)
            self._rows_left -= len(now)

    def close(self) -> None:
        """Finishes the file being written; its bytes are on the disk afterwards."""
        if self._writer is None:
            return
        _close_writer(self._writer)
        self._writer = None
        num_rows = rows_per_shard(self._format) - self._rows_left
        self._rows_left = 0
        sync(self._path)
        self.shards.append(WrittenShard(self._path, num_rows, hash_file(self._path)))

    def _open_next(self) -> None:
        self.close()
        self._path = self._directory / f"{self._prefix}-{len(self.shards):05d}"
        self._writer = _open_writer(self._path)
        self._rows_left = rows_per_shard(self._format)


def _open_writer(path: Path) -> Any:
    with _system_errors():
        return array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)


def _write_records(writer: Any, records: Iterable[bytes]) -> None:
    with _system_errors():
        for record in records:
            writer.write(record)


def _close_writer(writer: Any) -> None:
    with _system_errors():
        writer.close()


def name_shards(directory: Path, split: str, shards: Sequence[WrittenShard]) -> list[Shard]:
    """Gives files their names as the split's shards in `directory`; they keep their own names too."""
    named = []
    for number, shard in enumerate(shards):
        name = f"{DATASET_NAME}-{split}.array_record-{number:05d}-of-{len(shards):05d}"
        try:
            os.link(shard.path, directory / name)
        except OSError:  # not every file system has links
            shutil.copyfile(shard.path, directory / name)
        named.append(Shard(name, shard.num_rows, shard.path.stat().st_size))
    return named


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _system_errors() -> Iterator[None]:
    """Raises ArrayRecord's RuntimeErrors as OSErrors."""
    try:
        yield
    except RuntimeError as error:
        found = _SYSTEM_ERROR.match(str(error))
        reason = found[1] if found else " ".join(str(error).split())[:200]
        raise OSError(_ERROR_NUMBERS.get(reason, 0), reason) from None


def sync(path: Path) -> None:
    """Forces a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
