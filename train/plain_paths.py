"""Directories whose names Orbax and TensorStore misread or refuse get another name: a link to them.

Orbax lists what it wrote by globs and takes what is mounted at /s3 for a bucket; TensorStore opens no path
with a backslash. And neither minds what it opens.
"""

import hashlib
import os
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_MISREAD = frozenset("[]*?\\")
_BUCKETS = ("gs", "s3", "az", "hf")  # of etils.epath
_links: dict[str, str] = {}


def plain(path: Path, misread: Collection[str] = _MISREAD) -> Path:
    """The path itself, or one through a link to its parent, a directory, that means the same to all.

    Args:
      misread: characters that the reader takes for something else.

    Raises:
      OSError: no link could be made.
    """
    path = path.absolute()
    if not set(misread) & set(str(path)) and not is_taken_for_bucket(path):
        return path
    real = str(path.parent)
    # By its content, so that all processes of a job have the same one; old ones are used again.
    link = _own_directory() / hashlib.sha256(os.fsencode(real)).hexdigest()[:16]
    if not _leads_to(link, real):
        partial = link.with_name(f"{link.name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            partial.unlink()
        partial.symlink_to(real)
        partial.replace(link)
    _links[str(link)] = real
    return link / path.name


def find_strange(directory: Path) -> Path | None:
    """A pipe, a socket, a device, or a link to one or to nowhere: what a reader may wait at for ever.

    Raises:
      OSError: a directory cannot be read.
    """
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                if found := find_strange(Path(entry.path)):
                    return found
            elif not entry.is_file(follow_symlinks=False) and not _leads_to_file(entry):
                return Path(entry.path)
    return None


def _leads_to_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file() or entry.is_dir()
    except OSError:  # of a link to itself
        return False


def is_taken_for_bucket(path: Path) -> bool:
    """Whether libraries read an absolute path as one of a cloud's: /s3/name as s3://name."""
    return path.parts[1:2] != () and path.parts[1] in _BUCKETS


def with_real_names(text: str) -> str:
    """What a library says, of the directories that were meant."""
    for link, real in _links.items():
        text = text.replace(link, real)
    return text


def _own_directory() -> Path:
    """Where this user's links are, and nobody else can put any."""
    places = [place for place in (tempfile.gettempdir(), "/tmp") if not _MISREAD & set(place)]
    directory = Path(places[0] if places else os.sep, f"flaxmill-{os.getuid()}")
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if (
        not directory.is_dir()
        or directory.is_symlink()
        or found.st_uid != os.getuid()
        or found.st_mode & 0o22
    ):
        raise PermissionError(f"{directory} must be this user's own and closed to others; remove it")
    return directory


def _leads_to(link: Path, real: str) -> bool:
    try:
        return os.readlink(link) == real
    except OSError:
        return False
