"""The process in which a tracker's library runs: from the run's side (TrackerProcess), and inside (main)."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from flaxmill.sharding.processes.greetings import TOKEN
from flaxmill.train.metrics.tracker_backends import BACKENDS, Backend

EXIT_SECONDS = 10
"""The time that a tracker is given to send its last rows and to end."""
_POLL_SECONDS = 0.5
_LINGER_SECONDS = 2
_MAX_ERROR_LENGTH = 300
_NICENESS = 5  # below the run's own threads where they share cores


class TrackerError(Exception):
    """A tracker's library raised, or its process ended; the message is one line."""


class TrackerProcess:
    """A process with one open session of a tracker.

    Args:
      session: the arguments of `_open`, which main calls.
      log: the file for everything that the library prints.
      abandoned: once it is set, nobody waits for an answer any longer.

    Raises:
      TrackerError, OSError: here and in `request`.
    """

    def __init__(self, session: dict[str, Any], log: Path, abandoned: threading.Event) -> None:
        self._abandoned = abandoned
        self._connection, theirs = Pipe()
        # The run's own sys.path, so that both find the same packages.
        paths = os.pathsep.join(filter(None, sys.path))
        # Some libraries store the environment that they find; the job's secret must not be among it.
        env = {name: value for name, value in os.environ.items() if name != TOKEN}
        with theirs, log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env | {"PYTHONPATH": paths},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the run alone
            )
        try:
            self.request({"open": session})
        except BaseException:
            self.__exit__()
            raise

    def request(self, message: dict[str, Any]) -> None:
        """Send a request, and wait until the tracker has done it."""
        try:
            self._connection.send_bytes(json.dumps(message).encode())
            while not self._connection.poll(_POLL_SECONDS):
                if self._abandoned.is_set():
                    raise TrackerError("it was let go")
            error = json.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionError):
            raise TrackerError("its process ended") from None
        if error is not None:
            raise TrackerError(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()
        try:
            self._process.wait(0 if self._abandoned.is_set() else _LINGER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main(descriptor: int) -> None:
    """Answer requests until the run closes the connection or dies."""
    os.set_inheritable(descriptor, False)
    os.nice(_NICENESS)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # they go to a whole job: the run says when it is over
    connection = Connection(descriptor)
    requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, requests), daemon=True).start()
    session: Backend | None = None
    while (request := requests.get()) is not None:
        error = None
        try:
            if "open" in request:
                session = _open(**request["open"])
            elif "rows" in request:
                assert session is not None
                session.write(request["rows"])
            else:
                finished, session = session, None
                assert finished is not None
                finished.close(failed=request["failed"])
        except BaseException as raised:  # SystemExit too: some libraries act like programs
            error = f"{type(raised).__name__}: {raised}"
            print(error, file=sys.stderr, flush=True)
            error = " ".join(error.split())[:_MAX_ERROR_LENGTH]
        connection.send_bytes(json.dumps(error).encode())
    if session is not None:
        session.close(failed=True)


def _receive(connection: Connection, requests: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """Pass requests on; after the last, no library keeps this process for longer than EXIT_SECONDS."""
    try:
        while True:
            requests.put(json.loads(connection.recv_bytes()))
    except (EOFError, OSError):
        requests.put(None)
    time.sleep(EXIT_SECONDS)
    os._exit(1)


def _open(tracker: str, run_dir: str, run_name: str, run_id: str, config: dict[str, Any]) -> Backend:
    return BACKENDS[tracker](Path(run_dir), run_name, run_id, config)


if __name__ == "__main__":
    main(int(sys.argv[1]))
