"""Datasets in a cache that other processes use too: locked while they are made, and published whole."""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from flaxmill.data.files.sources import Log
from flaxmill.data.preparation.work_directory import UnfinishedError, WorkDirectory, remove
from flaxmill.data.prepared.dataset import Dataset, open_dataset
from flaxmill.data.prepared.manifest import MANIFEST, DamagedDatasetError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)


def open_whole(final: Path, log: Log) -> Dataset | None:
    """The dataset; None where there is none, or a damaged one, which is logged."""
    if not (final / MANIFEST).is_file():
        return None
    try:
        return open_dataset(final)
    except DamagedDatasetError as error:
        log(f"{error}: doing so now")
        return None


@contextlib.contextmanager
def cache_errors(directory: Path) -> Iterator[None]:
    """Names the cache in errors of the system: only the cache is written while data are prepared, and a file
    that cannot be read is named by its reader.

    Raises ValueError where we may not write the directory, OSError where something happened to it.
    """
    try:
        yield
    except UnfinishedError:
        raise
    except OSError as error:
        what = f"cache directory {str(directory)!r} cannot be written ({error.strerror or error})"
        if error.errno in _NOT_OURS:
            raise ValueError(f"{what}; set FLAXMILL_CACHE to one that can") from None
        if error.errno in _FULL:
            raise OSError(f"{what}; make room there, or set FLAXMILL_CACHE to a place with more") from None
        raise OSError(f"{what}; make sure that it stays, or set FLAXMILL_CACHE to another place") from None


def open_and_tidy(final: Path, log: Log) -> Dataset | None:
    """As `open_whole`; deletes what is left of the making of a whole dataset, unless a process is just doing
    so: the one that made it was killed when the dataset was there."""
    dataset = open_whole(final, log)
    work = WorkDirectory.beside(final)
    if dataset is not None and work.directory.exists():
        with contextlib.suppress(OSError):
            lock = os.open(_lock_file(final), os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                work.remove()
            finally:
                os.close(lock)
    return dataset


@contextlib.contextmanager
def locked(final: Path, log: Log) -> Iterator[None]:
    """Lets one process make a dataset while others wait; the system unlocks it for a killed process."""
    with cache_errors(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        # Opened for reading too: opening a pipe only for writing waits for its reader.
        lock = os.open(_lock_file(final), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # Without locks in the file system only waiting is lost: names are unique and publishing is atomic.
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log(f"waiting for another process that prepares {final}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in final.parent.glob(f".{final.name}.*.partial"):
                remove(leftover)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def fresh_directory(final: Path) -> Iterator[Path]:
    """An empty directory beside the dataset; deleted afterwards unless it was moved."""
    partial = final.with_name(f".{final.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir()
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def publish(partial: Path, final: Path) -> None:
    """Moves a whole dataset to its name; a whole one already there is kept, a damaged one is removed."""
    try:
        os.replace(partial, final)
    except OSError:
        with contextlib.suppress(ValueError):
            open_dataset(final)
            return
        damaged = partial.with_name(f"{partial.name}.damaged.partial")
        os.replace(final, damaged)
        os.replace(partial, final)
        remove(damaged)


def _lock_file(final: Path) -> Path:
    return final.with_name(f".{final.name}.lock")
