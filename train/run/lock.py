"""The lock of a run's directory: one process trains in it, and others can see that it does."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from flaxmill.train.run.directory import system_reason, unwritable

_FILE = ".lock"
_TRIES, _SECONDS_BETWEEN = 10, 0.02


@contextmanager
def lock_run_directory(directory: Path) -> Iterator[None]:
    """Hold the run for this process; the lock ends with the process, however that ends.

    Raises:
      ValueError: another process trains in the directory, or nothing there can be locked.
    """
    try:
        file = (directory / _FILE).open("a+", errors="replace")
    except OSError as error:
        raise unwritable(directory, f"{_FILE}: {system_reason(error)}") from None
    with file:
        try:
            _lock(file)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"{directory} is being trained by process {file.read(300).strip()}; wait for it, or give "
                "another --run-dir"
            ) from None
        except OSError as error:  # for example on a network file system mounted without locks
            raise unwritable(directory, f"no file there can be locked: {system_reason(error)}") from None
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def is_being_trained(directory: Path) -> bool:
    """Whether a process holds the run; where nothing can be locked, as far as is known."""
    path = directory / _FILE
    if not path.is_file():  # no process has trained here; and a pipe would never open
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # closing the file lets it go
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lock(file: IO[Any]) -> None:
    """Raises BlockingIOError where another process trains; one that only looks lets go at once."""
    for _ in range(_TRIES - 1):
        with suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_SECONDS_BETWEEN)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
