"""Streams that a command can always print to, as their failures never end it; plain lines for loggers."""

import contextlib
import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_READER_GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe, as in `| head`, or a terminal


def take_streams() -> None:
    """Let any text be printed to stdout and stderr at any time.

    Characters that their encoding lacks are escaped. Once nobody reads them any more, what is printed is
    dropped: a run must not end because its terminal did. Other failures are kept for `write_failure`.
    """
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)


def write_failure() -> OSError | None:
    """Why something that was printed to stdout is lost, for example on a full disk; None: nothing is lost."""
    sys.stdout.flush()
    buffer: Any = getattr(sys.stdout, "buffer", None)
    return getattr(getattr(buffer, "raw", buffer), "failure", None)


@contextlib.contextmanager
def plain_logging() -> Iterator[None]:
    """Print warnings of loggers as the command's own, whatever libraries set up meanwhile."""
    handler = _ToStderr(logging.WARNING)
    handler.setFormatter(_PlainFormatter())
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


class _Outlet(io.FileIO):
    """A descriptor to which writing does not fail."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int | None:
        try:
            return super().write(data)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in _READER_GONE:
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            else:
                self.failure = self.failure or error
            return memoryview(data).nbytes


def _lasting(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:  # closed by the process that started this one, as with `>&-`
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    # The C locale's surrogateescape gives back the bytes of a file's name, but not half of an emoji.
    errors = "backslashreplace" if stream.errors in ("strict", "surrogateescape") else stream.errors
    if not _is_descriptor(stream, descriptor):
        stream.reconfigure(errors=errors)
        return stream
    stream.flush()
    raw = _Outlet(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        raw if isinstance(stream.buffer, io.RawIOBase) else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _is_descriptor(stream: TextIO, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except OSError:  # a test's stream, in memory
        return False


class _ToStderr(logging.Handler):
    """Like logging.StreamHandler, with the stderr of the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


class _PlainFormatter(logging.Formatter):
    """Writes `flaxmill: warning: text` for flaxmill's own loggers, `NAME: text` for others."""

    def format(self, record: logging.LogRecord) -> str:
        is_own = record.name.partition(".")[0] == "flaxmill"
        prefix = f"flaxmill: {record.levelname.lower()}" if is_own else record.name
        return f"{prefix}: {super().format(record)}"
