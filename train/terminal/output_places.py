"""Places that a user names for what a command writes, refused before the command takes its time."""

import os
from pathlib import Path

from flaxmill.data.files.local_paths import local_path


def file_place(text: str, name: str, example: str) -> Path:
    """The file to write; a file that is there is replaced.

    Args:
      name: the option that it was given to.
      example: a file of its kind.

    Raises:
      ValueError: it is a directory, or its directory is absent or takes no files.
    """
    path = local_path(text, name)
    directory = path.absolute().parent
    if path.is_dir():
        wrong = "is a directory"
    elif not directory.is_dir():
        wrong = f"is in {path.parent}, which is no directory"
    elif not _is_writable(path if path.exists() else directory):
        wrong = "cannot be written"
    else:
        return path
    raise ValueError(f"{name}={text} {wrong}; name a file, such as {example}")


def folder_place(text: str, name: str) -> Path:
    """The directory to write into, which need not exist.

    Raises:
      ValueError: it is a file or below one, or takes no files.
    """
    path = local_path(text, name)
    existing = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
    if not existing.is_dir():
        wrong = "is no directory" if existing == path.absolute() else f"is below {existing}, no directory"
    elif not _is_writable(existing):
        wrong = "cannot be written"
    else:
        return path
    raise ValueError(f"{name}={text} {wrong}; name a directory of your own, or one to be made")


def _is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK | os.X_OK if path.is_dir() else os.W_OK)
