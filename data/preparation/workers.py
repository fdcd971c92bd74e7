"""Processes that work side by side: tasks go in, and results come out in their order.

They are started by a command of their own: a forked process would share threads and locks of this one, and
one that `multiprocessing` spawns runs the user's script again.
"""

import collections
import contextlib
import functools
import itertools
import os
import pickle
import queue
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from flaxmill.data.preparation.work_directory import UnfinishedError

Task = TypeVar("Task")
Result = TypeVar("Result")
Run = Callable[[Task], Result]

# A worker is given its next task when this one is done; a few wait, so that none waits for the reader.
_TASKS_PER_WORKER = 2


def run_in_order(
    make: Callable[..., Run], arguments: tuple, tasks: Iterator[Task], *, num_workers: int
) -> Generator[Any, None, None]:
    """What `make(*arguments)` gives for each task, in their order.

    Args:
      make: a function of a module; each worker calls it once. With one worker or task all is done here.

    Raises ValueError and OSError as the first task that fails does, UnfinishedError where a worker is
    killed.
    """
    first = list(itertools.islice(tasks, 2))
    tasks = itertools.chain(first, tasks)
    if num_workers == 1 or len(first) < 2:
        yield from map(make(*arguments), tasks)
        return
    with _Workers(make, arguments, num_workers) as workers:
        waiting: collections.deque[Future] = collections.deque()
        for task in tasks:
            waiting.append(workers.submit(task))
            if len(waiting) >= num_workers * _TASKS_PER_WORKER:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_process(module: str, variables: Mapping[str, str]) -> tuple[subprocess.Popen, Connection]:
    """A process that runs the module, which is given the number of its end of the connection.

    Args:
      variables: of its environment, beside those of this process.
    """
    ours, theirs = Pipe()
    paths = os.pathsep.join(filter(None, sys.path))  # so that both find the same packages
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": paths, **variables},
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for this process, which ends the others
        )
    return process, ours


def outcome(do: Callable[..., Any], *arguments: Any) -> tuple[Any, Exception | None]:
    """What it returns, and what it raises: a fault of the program as a RuntimeError with its traceback."""
    try:
        return do(*arguments), None
    except (ValueError, OSError) as raised:
        return None, raised
    except Exception:
        return None, RuntimeError(traceback.format_exc())


def killed() -> UnfinishedError:
    """What to raise where a process has ended that had more to do."""
    return UnfinishedError(
        "a process that prepares data was killed, perhaps since memory ran out; the same command goes on "
        "where it ended"
    )


class _Workers:
    """Threads that each hand tasks to a process of its own."""

    def __init__(self, make: Callable[..., Run], arguments: tuple, num_workers: int):
        self._processes: list[subprocess.Popen] = []
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(num_workers)
        try:
            for _ in range(num_workers):
                self._start(pickle.dumps((make, arguments)))
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def submit(self, task: Any) -> Future:
        return self._threads.submit(self._hand_out, task)

    def _start(self, greeting: bytes) -> None:
        process, ours = start_process(__name__, {"RAYON_NUM_THREADS": "1"})
        self._processes.append(process)
        ours.send_bytes(greeting)
        self._idle.put(ours)

    def _hand_out(self, task: Any) -> Any:
        connection = self._idle.get()
        try:
            connection.send(task)
            result, error = connection.recv()
        except (EOFError, OSError):
            raise killed() from None
        finally:
            self._idle.put(connection)
        if error is not None:
            raise error
        return result

    def _end(self) -> None:
        for process in self._processes:
            process.kill()  # what they write appears whole or not at all
        for process in self._processes:
            process.wait()
        self._threads.shutdown(cancel_futures=True)
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()


def _work(connection: Connection) -> None:
    """Does tasks until the other side is gone."""
    make, arguments = pickle.loads(connection.recv_bytes())
    made = functools.cache(lambda: make(*arguments))
    while True:
        connection.send(outcome(lambda task: made()(task), connection.recv()))


if __name__ == "__main__":
    with contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):
        _work(Connection(int(sys.argv[1])))
