"""Reading a mutated file must give a result or one line: soon, in little memory, and without opening any
other file."""

import contextlib
import io
import logging
import os
import resource
import shutil
import signal
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from flaxmill.train.command_line import outcome_of
from flaxmill.train.failures import EXIT_FAILURE, EXIT_MISTAKE, RunError

SECONDS = 10.0
KILOBYTES = 2 * 1024 * 1024
MAX_CHARACTERS = 2100
LEAKS = ("Traceback", "panicked at", "Fatal Python error", "terminate called", "Warning:")
"""Texts that no line of flaxmill's own contains."""


class Finding(AssertionError):  # noqa: N818  (what is found need not be an error of ours)
    """An outcome that must not happen; `kind` is equal for inputs that show the same defect."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}\n{text}")
        self.kind = kind


class _Hang(BaseException):
    """SECONDS are over."""


def attempt(read: Callable[[Path], object], inside: Path) -> str | None:
    """Read what is `inside`; returns None, or the line in which the command would end.

    Raises Finding for everything else: an error that the command line shows with a traceback, an unreadable
    line, a file opened outside, more than SECONDS, more than KILOBYTES, or output of a library on stderr.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with _watched(inside) as opened, _captured() as said:
        error = _run(read, inside)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > KILOBYTES:
        raise Finding("memory", f"{grown:,} kB more")
    if opened:
        raise Finding(f"opened {opened[0]}", f"{opened}")
    if leaks := [leak for leak in LEAKS if leak in said.getvalue()]:
        raise Finding(f"stderr: {leaks[0]}", said.getvalue()[:2000])
    return None if error is None else _line_of(error)


def check_line(line: str) -> None:
    """Raises Finding if the line is not one that a person can read."""
    if len(line) > MAX_CHARACTERS or not line.isprintable() or not line.startswith("flaxmill: error: "):
        raise Finding("line", line[:5000])


def empty(directory: Path) -> None:
    """Delete all in it."""
    for path in list(directory.iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _run(read: Callable[[Path], object], inside: Path) -> BaseException | None:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Hang

    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 1.0)  # again, where a library swallows it
    try:
        read(inside)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    return None


def _line_of(error: BaseException) -> str:
    outcome = outcome_of(error)
    if outcome is None:
        raise Finding(_kind_of(error), _trace(error))
    if outcome.code != EXIT_MISTAKE and not (outcome.code == EXIT_FAILURE and _is_damage(error)):
        raise Finding(f"exit code {outcome.code}: {_kind_of(error)}", _trace(error))
    check_line(outcome.line)
    return outcome.line


def _is_damage(error: BaseException) -> bool:
    """Whether an error of ours says that a checkpoint or a dataset is damaged: not the user's mistake."""
    return isinstance(error, RunError) or (isinstance(error, OSError) and error.errno is None)


def _kind_of(error: BaseException) -> str:
    """The type, and the last line of ours that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        frame
        for frame in frames
        if Path(frame.filename).parent.name in ("data", "model", "train", "sharding")
    ]
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "nowhere"
    return f"{type(error).__name__} at {place}"


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-4000:]


# Audit hooks cannot be removed: this one watches the directory `_inside`, and nothing while that is None.
_inside: str | None = None
_opened: list[str] = []
_TEMPORARY = os.path.join(os.path.realpath(tempfile.gettempdir()), "")
_ALLOWED = tuple(
    os.path.realpath(path)
    for path in {
        *filter(None, sys.path),
        *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib", "data")),
        *(sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), "/proc", "/sys", "/dev/null"),
        "/dev/zero",  # a link that a case itself has made
    }
)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or _inside is None or not isinstance(arguments[0], str | bytes):
        return
    path = os.path.realpath(os.path.join(os.getcwd(), os.fsdecode(arguments[0])))
    root = os.path.dirname(_inside)  # the files outside are here too
    is_temporary = f"{path}/".startswith(_TEMPORARY) and not path.startswith(os.path.join(root, ""))
    cache = os.environ.get("FLAXMILL_CACHE", _inside)
    allowed = (*_ALLOWED, os.path.realpath(cache), _inside)
    if not is_temporary and not any(path == one or path.startswith(os.path.join(one, "")) for one in allowed):
        _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_hook)


@contextlib.contextmanager
def _watched(inside: Path) -> Iterator[list[str]]:
    """Collects what is opened anywhere but `inside`, in the cache or among Python's own files."""
    global _inside
    _opened.clear()
    _inside = os.path.realpath(inside)
    try:
        yield _opened
    finally:
        _inside = None


class _Formatter(logging.Handler):
    """Formats what is logged, and keeps nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """Collects all that is written to stderr, including libraries' writes that bypass Python."""
    said, logger = io.StringIO(), logging.getLogger("flaxmill")
    sys.stderr.flush()
    kept, propagates = os.dup(2), logger.propagate
    handler = _Formatter()
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        logger.propagate = False
        logger.addHandler(handler)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            logger.propagate = propagates
            logger.removeHandler(handler)
            file.seek(0)
            said.write(file.read(100_000).decode("utf-8", "replace"))
