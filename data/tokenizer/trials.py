"""Reads files of strangers in a child process first, where a library that crashes, grows or never ends
does no harm.

A library in C++ or Rust that meets what its authors did not think of may end the process, or print lines of
its own; no `try` helps against that.
"""

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

try:
    import resource
except ImportError:  # not a Unix system
    resource = None

SECONDS = 8
"""CPU time of a trial, and one more for each MB: a tokenizer of 250,000 words, 14 MB, needs half a second."""
_PATIENCE = 90.0  # seconds by the clock, if other processes have the processor
MAX_BYTES = 2 << 30
_REFUSED = 3
_OF_OTHERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TOO_LONG = "it takes more than {} s to read it and a line of text"
_TOO_LARGE = f"it takes more than {MAX_BYTES >> 30} GB of memory to read it and a line of text"


def try_reading(module: str, path: Path, others: tuple[Path, ...] = ()) -> str | None:
    """Why `module`, run as a program, cannot read a file; None if it can, or no child process can start.

    A trial is made once for each state of the files. It costs 0.05 s and the reading.

    Args:
      module: its `__main__` part calls `trial`.
      others: files beside it that are read with it.
    """
    return _try_reading(module, str(path), tuple(map(_state, (path, *others))))


def trial(read: Callable[[Path], object]) -> NoReturn:
    """As the child process, read the file that the first argument names, and tell by the exit code."""
    path = Path(sys.argv[1])
    if resource is not None:
        seconds = _seconds(path)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 2))
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        read(path)
    except MemoryError:
        _tell(_TOO_LARGE)
    except BaseException as error:  # panics of Rust are not Exceptions
        _tell(" ".join(str(error).split())[:200] or type(error).__name__)
    os._exit(0)


def _tell(reason: str) -> NoReturn:
    sys.stdout.buffer.write(reason.encode("utf-8", "backslashreplace"))
    sys.stdout.flush()
    os._exit(_REFUSED)


def _state(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _seconds(path: Path) -> int:
    return SECONDS + path.stat().st_size // 1_000_000


@functools.lru_cache(maxsize=64)
def _try_reading(module: str, path: str, state: tuple) -> str | None:
    # -P: nothing beside the file, or where the command was given, is imported in place of a library.
    command = [sys.executable, "-P", "-m", module, path]
    # A session of its own: Ctrl-C is for the command, which knows what to do.
    run = functools.partial(subprocess.run, stdin=subprocess.DEVNULL, capture_output=True)
    try:
        done = run(command, timeout=_PATIENCE, check=False, start_new_session=True)
    except subprocess.TimeoutExpired:
        return _TOO_LONG.format(_PATIENCE)
    except (OSError, TypeError):  # no process can be started here: the file is read as it is
        return None
    if done.returncode == _REFUSED:
        return done.stdout.decode("utf-8", "replace").strip()
    return None if done.returncode >= 0 else _crash(-done.returncode, done.stderr, Path(path))


def _crash(number: int, said: bytes, path: Path) -> str | None:
    if number in _OF_OTHERS:
        return None
    if number == signal.SIGXCPU:
        return _TOO_LONG.format(_seconds(path))
    if b"memory allocation" in said:  # from Rust, which then aborts
        return _TOO_LARGE
    return f"the library that reads it crashes by {signal.Signals(number).name}"
