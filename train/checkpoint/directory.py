"""The directory of a run's checkpoints: which steps it holds, and what is renamed or cleared away."""

import errno
import os
import shutil
from pathlib import Path

TEMPORARY = ".orbax-checkpoint-tmp"  # in the name of what is being written; the commit renames it
DISCARDED, DAMAGED = ".discarded", ".damaged"


def find_steps(directory: Path) -> list[int]:
    """Steps with a committed checkpoint, damaged ones too, ascending.

    A save that a crash left half written has another name: the commit renames it.
    """
    if not directory.is_dir():
        return []
    named = (path for path in directory.iterdir() if _is_step(path.name))
    return sorted(int(path.name) for path in named if _holds_something(path))


def _is_step(name: str) -> bool:
    """Whether a save gave this name; a number that is spelled differently does not count."""
    return name.isdecimal() and name.isascii() and name == str(int(name))


def _holds_something(path: Path) -> bool:
    try:
        return any(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # a run that is still training may just have dropped it
        return False
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def set_aside(path: Path, suffix: str) -> Path | None:
    """Rename a checkpoint, so that it no longer counts; None where the system refuses."""
    target, number = path.with_name(path.name + suffix), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}{suffix}.{number}")
    try:
        return path.rename(target)
    except OSError:
        return None


def drop(directory: Path, steps: set[int]) -> None:
    """Delete checkpoints.

    They are renamed first, so that a crash between two files leaves nothing that looks whole.
    """
    for step in steps:
        set_aside(directory / str(step), DISCARDED)
    clear(directory)


def clear(directory: Path) -> None:
    """Delete what crashes and failures left behind; no save may be in progress."""
    for left in (*directory.glob(f"*{DISCARDED}*"), *directory.glob(f"*{TEMPORARY}*")):
        if left.is_dir():  # opening a pipe would wait for ever
            shutil.rmtree(left, ignore_errors=True)


def make_writable(directory: Path) -> None:
    """Make the directory, if it is absent.

    Raises:
      OSError: it cannot be made, or nothing can be written to it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
        raise PermissionError(
            f"checkpoints cannot be written to {directory}; change its permissions or run_dir"
        )
