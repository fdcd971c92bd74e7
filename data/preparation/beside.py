"""A process of its own for a dataset that is made while this process compiles.

In one process the two would wait for each other: for Python's lock, and for that of the one heap that all
threads share (sharding/processes/allocator.py).
"""

import contextlib
import functools
import os
import pickle
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from flaxmill.data.files.sources import Log
from flaxmill.data.preparation.workers import killed, outcome, start_process


def run_beside(do: Callable[..., None], *arguments: Any, log: Log) -> None:
    """Call `do(*arguments, log=log)` in a process of its own, which ends with this one.

    Args:
      do: a function of a module.

    Raises ValueError and OSError as it does, UnfinishedError where the process is killed.
    """
    greeting = pickle.dumps((do, arguments))
    process, connection = start_process(__name__, {})
    try:
        with connection:
            connection.send_bytes(greeting)
            error = _listen(connection, log)
    except (EOFError, ConnectionError):
        raise killed() from None
    finally:
        process.kill()
        process.wait()
    if error is not None:
        raise error


def _listen(connection: Connection, log: Log) -> Exception | None:
    """Logs its lines until it is done; what it raised."""
    while True:
        line, error = connection.recv()
        if line is None:
            return error
        log(line)


def _work(connection: Connection) -> None:
    do, arguments = pickle.loads(connection.recv_bytes())
    threading.Thread(target=_end_with_parent, args=[connection], daemon=True).start()

    def log(line: str) -> None:
        connection.send((line, None))

    _, error = outcome(functools.partial(do, *arguments, log=log))
    connection.send((None, error))


def _end_with_parent(connection: Connection) -> None:
    """Ends this process once the other side is gone, which sends no more."""
    with contextlib.suppress(EOFError, ConnectionError):
        connection.recv_bytes()
    os._exit(1)


if __name__ == "__main__":
    with contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):
        _work(Connection(int(sys.argv[1])))
