"""Processes of one job watch each other: when one dies or hangs, the others end soon too."""

import atexit
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

from jax.errors import JaxRuntimeError

from flaxmill.sharding.processes.coordination import coordination, coordinator_lost, disconnect

_RESTART = "start all processes again, and the run continues from its last checkpoint"
_SHARED, _BEATS, _SEEN = "flaxmill/shared/", "flaxmill/beat/", "flaxmill/seen/"
_SAME_MISTAKE_SECONDS, _OWN_END_SECONDS = 1.0, 10.0


class Beat(NamedTuple):
    """What a process says about itself, several times within `heartbeat_seconds`."""

    index: int
    host: str
    pid: int
    count: int = 0
    step: int = 0
    calls: int = 0
    """How often it said where it is at this step; 0 before the first time."""
    doing: str = "starting"
    line: str = ""
    """The line of Python that its main thread is at."""
    finished: bool = False

    def __str__(self) -> str:
        return f"process {self.index} ({self.host}, pid {self.pid})"

    @property
    def place(self) -> tuple[bool, int, int]:
        """Places have the order in which all processes go through them."""
        return self.finished, self.step, self.calls

    @property
    def where(self) -> str:
        return f"at step {self.step}, {self.doing}" if self.calls else "starting"


class PeerVerdict(NamedTuple):
    """Why all processes end; the first that is posted counts."""

    kind: str
    """failed, mistake, dead, stuck, stopped or finished"""
    message: str
    index: int
    """The process that it is about."""
    code: int = 1
    """The exit code of all processes."""


class Peers:
    """Context manager for everything that processes do together; it does nothing for a process alone.

    Every process posts beats to the store of process 0. Process 0 reads them all, the others read its beat
    and the verdict. Time counts only while the process that counts it runs: a machine that was suspended, or
    too busy to read, accuses nobody of it.

    An exception that leaves the context is posted, so that all others end. If it may be the mark of a peer's
    death, as when a collective fails, this process waits for the peer's name, which becomes its only message.
    """

    def __init__(self, *, heartbeat_seconds: int, stall_seconds: int) -> None:
        for name, value in (("heartbeat_seconds", heartbeat_seconds), ("stall_seconds", stall_seconds)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1 second")
        self._heartbeat_seconds, self._stall_seconds = heartbeat_seconds, stall_seconds
        self._interval = min(1.0, heartbeat_seconds / 8)
        self._client: Any = None
        self._own = Beat(0, socket.gethostname(), os.getpid())
        self._at = (0, 0, "starting")  # step, calls, doing
        self._finished = False
        self._beats: dict[int, Beat] = {}
        self._num_answers = 0
        self._verdict: PeerVerdict | None = None
        self._leaving = threading.Event()
        self._over = threading.Event()
        self._poke = threading.Event()

    def at(self, step: int, doing: str) -> None:
        """Say where this process is; every call is progress, and all processes make the same calls."""
        last, calls, _ = self._at
        self._at = (step, calls + 1 if step == last else 1, doing)

    def leave(self, code: int, said: str) -> NoReturn:
        """End all processes with `code`, without a save: this one was told to stop at once.

        Any thread may call it. If several were told at once, all end with the code of the first.
        """
        self._leave(PeerVerdict("stopped", f"{self._short()}: {said}", self._own.index, code))
        os._exit(code if self._verdict is None else self._verdict.code)

    def finish(self) -> None:
        """Wait until all have come here, then disconnect; the watch goes on until then."""
        if self._client is None or self._over.is_set():
            return
        self._finished = True
        self._poke.set()
        self._over.wait()
        disconnect()
        self._client = None

    def __enter__(self) -> Self:
        joined = coordination()
        if joined is not None:
            self._client = joined.client
            self._beats = {index: Beat(index, *member) for index, member in enumerate(joined.members)}
            self._own = self._beats[joined.process_index]
            for loop in (self._post_beats, self._watch):
                threading.Thread(target=loop, name=f"peers{loop.__name__}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is None:
            return
        if error is None:
            self.finish()
            return
        if self._may_be_a_peers(error):
            # If a peer died, the watch ends this process meanwhile.
            time.sleep(self._heartbeat_seconds + 4 * self._interval)
        text = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, ValueError | RuntimeError) or isinstance(error, JaxRuntimeError):
            text = f"{type(error).__name__}: {text}"
        kind_of_end, code = ("mistake", 2) if type(error) is ValueError else ("failed", 1)
        self._leave(PeerVerdict(kind_of_end, f"{self._short()} failed: {text}", self._own.index, code))
        atexit.register(_exit_at_once)

    def _may_be_a_peers(self, error: BaseException | None) -> bool:
        while error is not None:
            if isinstance(error, JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
                return True
            error = error.__cause__ or error.__context__
        return False

    def _short(self) -> str:
        return f"process {self._own.index} ({self._own.host})"

    # What goes to the store and comes from it. A call to the store may hang: only these threads make any.

    def _post_beats(self) -> None:
        while not self._over.is_set():
            with suppress(RuntimeError, ValueError):  # no answer: the watch counts the time
                self._exchange()
            self._poke.wait(self._interval)
            self._poke.clear()

    def _exchange(self) -> None:
        step, calls, doing = self._at
        self._own = self._own._replace(
            count=self._own.count + 1,
            step=step,
            calls=calls,
            doing=doing,
            line=_main_line(),
            finished=self._finished,
        )
        own, is_main = json.dumps(self._own), self._own.index == 0
        self._client.key_value_set(f"{_BEATS}{self._own.index}", own, allow_overwrite=True)
        if is_main:
            self._client.key_value_set(f"{_SHARED}beat", own, allow_overwrite=True)
        shared = dict(self._client.key_value_dir_get(_SHARED))
        beats = self._client.key_value_dir_get(_BEATS) if is_main else []
        for text in [*(text for _, text in beats), shared.get(f"{_SHARED}beat")]:
            if text:
                beat = Beat(*json.loads(text))
                self._beats[beat.index] = beat
        self._num_answers += 1
        if self._verdict is None and f"{_SHARED}verdict" in shared:
            self._verdict = PeerVerdict(*json.loads(shared[f"{_SHARED}verdict"]))
            self._client.key_value_set(f"{_SEEN}{self._own.index}", "", allow_overwrite=True)
            self._poke.set()

    def _post(self, verdict: PeerVerdict) -> None:
        """Make it the job's verdict unless there is one, and see that all have read it."""
        # Of the process that it is about, only one that hangs is sure to read.
        absent = {"0"} if verdict.kind == "stuck" else {"0", str(verdict.index)}
        expected = {str(index) for index in self._beats} - absent

        def post() -> None:
            with suppress(RuntimeError):  # there is one already, or nobody to read it
                self._client.key_value_set(f"{_SHARED}verdict", json.dumps(verdict))
            with suppress(RuntimeError):
                shared = dict(self._client.key_value_dir_get(_SHARED))
                self._verdict = PeerVerdict(*json.loads(shared[f"{_SHARED}verdict"]))
            with suppress(RuntimeError):
                self._client.key_value_set(f"{_SEEN}{self._own.index}", "", allow_overwrite=True)
            seen: set[str] = set()
            while self._own.index == 0 and not expected <= seen:  # the store ends with process 0
                with suppress(RuntimeError):
                    seen = {key.removeprefix(_SEEN) for key, _ in self._client.key_value_dir_get(_SEEN)}
                time.sleep(self._interval / 10)

        thread = threading.Thread(target=post, daemon=True)
        thread.start()
        thread.join(min(3.0, self._heartbeat_seconds))

    def _leave(self, verdict: PeerVerdict) -> None:
        if self._client is not None and not self._over.is_set():
            self._leaving.set()
            timer = threading.Timer(_OWN_END_SECONDS, os._exit, (verdict.code,))
            timer.daemon = True  # in case a library's thread delays the end
            timer.start()
            self._post(verdict)

    # What is concluded.

    def _watch(self) -> None:
        silent = dict.fromkeys(self._beats, 0.0)
        stalled = dict.fromkeys(self._beats, 0.0)
        known, num_answers, unread, before = dict(self._beats), 0, 0.0, time.monotonic()
        while not self._over.is_set():
            coordinator_lost.wait(self._interval)
            now = time.monotonic()
            # When this process gets its turn late, the others do not get theirs more often.
            elapsed = min(now - before, 1.25 * self._interval)
            unread, before = min(unread + elapsed, 2 * self._interval), now
            if self._verdict is not None:
                self._obey(self._verdict)
            if coordinator_lost.is_set() and not self._leaving.is_set():
                self._lost_main()
            # If process 0 could not read its own store, that is not another process's silence.
            has_read = self._own.index > 0 or self._num_answers > num_answers
            num_answers = self._num_answers
            for index, beat in dict(self._beats).items():
                passed = elapsed if index == 0 else unread if has_read else 0.0
                silent[index] = 0.0 if beat.count != known[index].count else silent[index] + passed
                stalled[index] = 0.0 if beat.place != known[index].place else stalled[index] + passed
                known[index] = beat
            unread = 0.0 if has_read else unread
            verdict = self._silence(silent, known) or self._stall(stalled, known) or self._all_finished(known)
            if verdict is not None and self._verdict is None:
                self._conclude(verdict)

    def _silence(self, silent: dict[int, float], known: dict[int, Beat]) -> PeerVerdict | None:
        longest = max([0] if self._own.index else known, key=silent.__getitem__)
        if silent[longest] < self._heartbeat_seconds:
            return None
        beat = known[longest]
        message = (
            f"{beat} has not been heard from for {self._heartbeat_seconds} s; it was {beat.where}: {_RESTART}"
        )
        return PeerVerdict("dead", message, longest)

    def _stall(self, stalled: dict[int, float], known: dict[int, Beat]) -> PeerVerdict | None:
        """The verdict on the process furthest behind, if it has not moved.

        Until all have said where they are, none is late.
        """
        if self._own.index or not all(beat.calls for beat in known.values()):
            return None
        last = min(beat.place for beat in known.values())
        behind = [beat for beat in known.values() if beat.place == last]
        if last[0] or min(stalled[beat.index] for beat in behind) < self._stall_seconds:
            return None
        # Processes that wait for another all wait at one line of the program.
        [(waiting, number)] = Counter(beat.line for beat in behind).most_common(1)
        suspects = [beat for beat in behind if beat.line != waiting or number <= len(behind) / 2] or behind
        who = " and ".join(f"{beat} in {beat.line}" for beat in suspects[:3])
        who += f" and {len(suspects) - 3} more are" if suspects[3:] else " are" if suspects[1:] else " is"
        message = f"{who} stuck: {suspects[0].where}, for {self._stall_seconds} s; {_RESTART}"
        return PeerVerdict("stuck", message, suspects[0].index)

    def _all_finished(self, known: dict[int, Beat]) -> PeerVerdict | None:
        done = self._own.index == 0 and all(beat.finished for beat in known.values())
        return PeerVerdict("finished", "", 0, 0) if done else None

    def _lost_main(self) -> NoReturn:
        main = self._beats[0]
        message = f"{main}, to which all are connected, has ended; it was {main.where}: {_RESTART}"
        self._end(PeerVerdict("dead", message, 0))

    def _conclude(self, verdict: PeerVerdict) -> None:
        self._post(verdict)
        if self._verdict is None:  # the store has not answered yet, or the silent process is process 0
            self._verdict = verdict
        self._obey(self._verdict)

    def _obey(self, verdict: PeerVerdict) -> None:
        if verdict.kind == "finished":
            self._over.set()
            self._poke.set()
            return
        # A mistake that all processes made ends each of them with a message of its own.
        if not self._leaving.wait(_SAME_MISTAKE_SECONDS if verdict.kind in ("failed", "mistake") else 0):
            self._end(verdict)

    def _end(self, verdict: PeerVerdict) -> NoReturn:
        if self._own.index == 0:
            self._post(verdict)
        prefix = "" if verdict.kind == "stopped" else "error: "
        start = "\n" if sys.stderr is not None and sys.stderr.isatty() else ""
        with suppress(OSError):
            os.write(2, f"{start}flaxmill: {prefix}{verdict.message}\n".encode())
        os._exit(verdict.code)


def _main_line() -> str:
    """Where the main thread is: the innermost line of flaxmill, if it is in flaxmill at all."""
    innermost = frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and not frame.f_globals.get("__name__", "").startswith("flaxmill."):
        frame = frame.f_back
    found = frame or innermost
    return f"{Path(found.f_code.co_filename).name}:{found.f_lineno}" if found else "an unknown line"


def _exit_at_once() -> None:
    """Exits in place of JAX's own exit, which waits for all processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
