"""Gives directories another name, a link, where Orbax and TensorStore misread or refuse their own.

Orbax lists what it wrote by globs and takes what is mounted at /s3 for a bucket; TensorStore opens no path
with a backslash. And neither checks what it opens.
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
    """The path itself, or a path through a link to its parent directory that means the same to all.

    Args:
      misread: characters that the reader takes for something else.

    Raises:
      OSError: no link could be made.
    """
    path = path.absolute()
    if not set(misread) & set(str(path)) and not is_taken_for_bucket(path):
        return path
    real = str(path.parent)
    # Named by what it leads to, so that all processes of a job have the same link; old links are used again.
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
    """Find a pipe, a socket, a device, or a link to one or to nowhere: a reader may wait for it for ever.

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
    except OSError:  # a link to itself
        return False


def is_taken_for_bucket(path: Path) -> bool:
    """Whether libraries read an absolute path as a bucket of a cloud: /s3/name as s3://name."""
    return path.parts[1:2] != () and path.parts[1] in _BUCKETS


def with_real_names(text: str) -> str:
    """What a library says, with the directories that were meant in place of links."""
    for link, real in _links.items():
        text = text.replace(link, real)
    return text


def _own_directory() -> Path:
    """The directory of this user's links, where nobody else can put any."""
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
