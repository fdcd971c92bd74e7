"""Metrics in TensorBoard, Weights & Biases, MLflow or Aim: best effort, and never in the run's way.

Each tracker has its own queue, a thread that empties it, and a process that the thread feeds: exit hooks that
wait for a network, prompts, signal handlers and output of a tracker's library stay out of the run's process.
"""

import importlib.util
import json
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from flaxmill.data.whole_files import write_whole_text
from flaxmill.train.metrics.tracker_backends import IDS_FILE
from flaxmill.train.metrics.tracker_process import EXIT_SECONDS, TrackerProcess

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow", "aim": "aim"}
TRACKERS = tuple(PACKAGES)
LOG_FILE = "trackers.log"
"""In the run's directory: what the libraries of trackers print."""
QUEUE_ROWS = 10_000
"""Rows that may wait for one tracker, some 20 MB; if there are more, the oldest are dropped."""
ROWS_AT_ONCE = 256
RETRY_SECONDS = (1, 5, 20)
"""Pauses after failures in a row, before a fresh session; one more failure switches a tracker off."""
_KEPT = "metrics.jsonl has every row"

TrackedRow = dict[str, float]


class Trackers:
    """Sends rows to trackers while the context is open.

    Leaving it waits at most EXIT_SECONDS, for all trackers together, and then lets go of what is not sent.

    Args:
      names: some of TRACKERS.
      run_dir: where local trackers write, and where IDS_FILE keeps the ids for a resumed run.
      config: the resolved experiment, nested.
      say: is told, in one line, when a tracker fails, falls behind or is let go.

    Raises:
      ValueError: the package of a tracker is not installed.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        run_dir: Path,
        run_name: str,
        config: dict[str, Any],
        say: Callable[[str], None],
    ) -> None:
        check_installed(names)
        self._feeds: list[_Feed] = []
        if names:
            session = {"run_dir": str(run_dir.absolute()), "run_name": run_name, "config": config}
            session["run_id"] = _run_id(run_dir / IDS_FILE)
            log = run_dir / LOG_FILE
            self._feeds = [_Feed({"tracker": name, **session}, log, say) for name in dict.fromkeys(names)]

    def write(self, row: Mapping[str, Any]) -> None:
        """Queue the finite numbers of a row; neither blocks nor raises."""
        if self._feeds:
            finite = {name: float(value) for name, value in row.items() if _is_finite(value)}
            for feed in self._feeds:
                feed.put(finite)

    def __enter__(self) -> Self:
        for feed in self._feeds:
            feed.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        deadline = time.monotonic() + EXIT_SECONDS
        for feed in self._feeds:
            feed.finish(failed=kind is not None)
        for feed in self._feeds:
            feed.join(deadline)


class _Feed:
    """The rows that wait for one tracker, and the thread that passes them to its process."""

    def __init__(self, session: dict[str, Any], log: Path, say: Callable[[str], None]) -> None:
        self._name, self._session, self._log, self._say = session["tracker"], session, log, say
        self._changed = threading.Condition()
        self._rows: deque[TrackedRow] = deque()
        self._sending: list[TrackedRow] = []
        self._num_dropped = 0
        self._finishing: dict[str, Any] | None = None
        self._abandoned = threading.Event()
        self._is_off = False
        self._thread = threading.Thread(target=self._run, name=f"tracker-{self._name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, row: TrackedRow) -> None:
        with self._changed:
            if self._is_off:
                return
            full = len(self._rows) >= QUEUE_ROWS
            if full:
                self._rows.popleft()
                self._num_dropped += 1
            self._rows.append(row)
            self._changed.notify()
        if full and self._num_dropped == 1:
            self._tell(f"falls behind: {QUEUE_ROWS} rows wait, and the oldest are dropped; {_KEPT}")

    def finish(self, *, failed: bool) -> None:
        """Let the thread end once it has sent all rows."""
        with self._changed:
            self._finishing = {"finish": True, "failed": failed}
            self._changed.notify()

    def join(self, deadline: float) -> None:
        """Wait for the thread until the deadline, then end its process whatever it does."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            let_go = self._thread.is_alive()
            missing = self._num_dropped + len(self._rows) + len(self._sending)
            was_on, self._is_off = not self._is_off, True
        if let_go:
            self._abandoned.set()
            self._thread.join(1.0)  # the thread looks twice a second
        if let_go and was_on:
            lost = f"it did not take {missing} rows" if missing else "it took all rows but did not finish"
            self._tell(f"was let go after {EXIT_SECONDS} s; {lost}; {_KEPT}")
        elif missing and was_on:
            self._tell(f"did not take {missing} rows; {_KEPT}")

    def _run(self) -> None:
        num_failures = 0
        while not self._abandoned.is_set():
            try:
                with TrackerProcess(self._session, self._log, self._abandoned) as process:
                    while rows := self._take():
                        process.request({"rows": rows})
                        num_failures = 0
                        self._sending = []
                    assert self._finishing is not None
                    process.request(self._finishing)
                return
            except Exception as error:  # whatever it is, it must not reach the run
                num_failures += 1
                if num_failures > len(RETRY_SECONDS):
                    return self._switch_off(error, num_failures)
                self._pause(RETRY_SECONDS[num_failures - 1])

    def _take(self) -> list[TrackedRow]:
        """The rows to send next, first the rows of a failed attempt; none once the run is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._sending or self._rows or self._finishing)
            if not self._sending:
                self._sending = [self._rows.popleft() for _ in range(min(ROWS_AT_ONCE, len(self._rows)))]
            return self._sending

    def _pause(self, seconds: float) -> None:
        """Wait before another attempt; at the end of the run there is no time for that."""
        with self._changed:
            self._changed.wait_for(lambda: self._finishing, timeout=seconds)

    def _switch_off(self, error: Exception, num_failures: int) -> None:
        with self._changed:
            was_on, self._is_off = not self._is_off, True
            self._rows.clear()
            self._sending = []
        if was_on:
            self._tell(
                f"is switched off for the rest of this run: it failed {num_failures} times in a row, at last "
                f"with {error}; {self._log} has its output, and {_KEPT}"
            )

    def _tell(self, text: str) -> None:
        with suppress(OSError):  # a closed terminal
            self._say(f"tracker {self._name} {text}")


def check_installed(names: Sequence[str]) -> None:
    """Raise ValueError, saying how to go on, where the package of a tracker is missing."""
    for name in names:
        package = PACKAGES[name]
        spec = importlib.util.find_spec(package)
        # A mere directory of that name, such as the wandb/ that wandb leaves behind, has no origin.
        if spec is None or spec.origin is None:
            others = "".join(f" --trackers {other}" for other in dict.fromkeys(names) if other != name)
            raise ValueError(
                f"trackers={name} needs the package {package}, which is not installed; run `pip install "
                f"'flaxmill[{name}]'`, or go on without it: --trackers None{others}"
            )


def _run_id(path: Path) -> str:
    """The run's id in trackers, made once for a run directory."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            raise ValueError(f"{path} is no file")
        return json.loads(path.read_bytes())["run_id"]
    run_id = uuid.uuid4().hex
    with suppress(OSError):  # if the disk fails, a resumed run will appear as another
        write_whole_text(path, json.dumps({"run_id": run_id}) + "\n")
    return run_id


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
