"""What a file system is and can do: its kind, its room, and the operations that runs rely on."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo."""

    kind: str
    """As the kernel calls it: ext4, nfs4, lustre, tmpfs, overlay ..."""
    options: frozenset[str]


class Room(NamedTuple):
    """What is left for this user."""

    num_bytes: int
    num_files: int | None
    """None: the file system has no fixed number."""


def nearest_directory(path: Path) -> Path:
    """The path, or the nearest of its parents that is there.

    Raises OSError where this user may not look.
    """
    return next(place for place in (path, *path.parents) if place.exists())


def mount_of(path: Path, table: Path = Path("/proc/self/mountinfo")) -> Mount | None:
    """The file system that holds a path; None where the system does not tell."""
    try:
        lines = table.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    place, best, found = path.resolve(), -1, None
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].replace("\\040", " "))
        if place.is_relative_to(point) and len(point.parts) >= best:  # the last of equals lies on top
            kind, _, options = (*after.split(), "", "", "")[:3]
            best, found = len(point.parts), Mount(kind, frozenset(options.split(",")))
    return found


def room_at(path: Path) -> Room:
    """What is left on the file system of a path."""
    said = os.statvfs(path)
    return Room(said.f_bavail * said.f_frsize, said.f_favail if said.f_files else None)


def try_operations(directory: Path) -> str | None:
    """Write, sync, rename and lock in a new folder, which is removed; what failed, None: nothing did."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=".flaxmill-doctor-", dir=directory))
    except OSError as error:
        return f"cannot be written ({reason_of(error)})"
    try:
        for name, operation in _OPERATIONS.items():
            try:
                said = operation(folder)
            except OSError as error:
                return f"{name} fails there ({reason_of(error)})"
            if said is not None:
                return said
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None


def reason_of(error: OSError) -> str:
    """What the system says of a failure, within a sentence."""
    return (error.strerror or str(error)).lower()


def _write(folder: Path) -> None:
    with (folder / "new").open("wb") as file:
        file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())


def _replace(folder: Path) -> str | None:
    (folder / "old").write_bytes(b"old")
    os.replace(folder / "new", folder / "old")
    is_whole = (folder / "old").stat().st_size == 1 << 20 and not (folder / "new").exists()
    return None if is_whole else "renaming a file onto another does not replace it there"


def _rename_folder(folder: Path) -> None:
    """As a checkpoint is committed."""
    (folder / "writing").mkdir()
    (folder / "writing" / "array").write_bytes(b"1")
    (folder / "writing").rename(folder / "done")
    (folder / "done" / "array").stat()


def _lock(folder: Path) -> str | None:
    """As a run is locked: a second open file must not get the lock of the first."""
    with (folder / "lock").open("w") as first, (folder / "lock").open("w") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                return None
            raise
    return "locks do not keep a second process out there"


_OPERATIONS: dict[str, Callable[[Path], str | None]] = {
    "writing a file to the disk": _write,
    "renaming a file": _replace,
    "renaming a folder": _rename_folder,
    "locking a file": _lock,
}
