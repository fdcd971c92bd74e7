"""Turns SIGTERM and SIGINT into a flag that the loop reads between steps."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Literal, Self

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: schedulers requeue
EXIT_BY_SIGNAL = 128  # plus the signal's number, as in shells
SIGNALS = (signal.SIGTERM, signal.SIGINT)

# One request often comes as several signals: `timeout`, launchers and a terminal's Ctrl-C reach a process and
# its parent, which passes it on some milliseconds later. A person who means it presses again after reading
# the first answer, and schedulers that kill wait for longer than this.
SECOND_SIGNAL_SECONDS = 1.5

Leave = Callable[[int, str], object]


class StopSignal:
    """Context manager: `requested` turns true at the first SIGTERM or SIGINT, or when `ask` is called.

    Another signal SECOND_SIGNAL_SECONDS or more after it ends the process at once. Until the run has
    `started`, while it prepares, restores or compiles, there is nothing to save, and the first signal ends
    the process at once. The exit code is 75 where a checkpoint holds every step that was made, else 128 plus
    the signal's number.

    Python runs its signal handlers between bytecodes of the main thread, so not while XLA compiles there.
    The interpreter's C handler also writes the signal's number to the wakeup socket, at once and from
    whichever thread the kernel chose; a thread of ours reads it. Unlike a blocked mask and sigwait this
    works with threads that started earlier, and child processes inherit nothing.

    Outside the main thread, where Python forbids handlers, it never reports anything.
    """

    def __init__(self, notify: Callable[[str], None] | None = None, *, until_exit: bool = False) -> None:
        """Signals are taken when the context is entered.

        Args:
          notify: is told what a signal does, from another thread; None: a line on stderr.
          until_exit: the process ends after the context, and its exit code is settled: signals that come then
            are ignored, and not left to their earlier handlers.
        """
        self._notify = notify or _print_notice
        self._until_exit = until_exit
        self.holds_checkpoint: Callable[[], bool] = lambda: False
        """Whether the run has a checkpoint that it would continue from."""
        self._leave: Leave | None = _exit_with
        self._may_leave = threading.Event()
        self._may_leave.set()
        self._phase: Literal["preparing", "training", "saved"] = "preparing"
        self._event = threading.Event()
        self._undo: list[Callable[[], Any]] = []
        self._is_over = False

    @property
    def requested(self) -> bool:
        """Whether to save and stop."""
        return self._event.is_set()

    @property
    def leave(self) -> Leave | None:
        """What ends the process at once, given the exit code and the reason; called from another thread.

        None: nothing can tell other processes yet, and the end waits until something can.
        """
        return self._leave

    @leave.setter
    def leave(self, leave: Leave | None) -> None:
        self._leave = leave
        (self._may_leave.set if leave else self._may_leave.clear)()

    def ask(self, reason: str) -> None:
        """Ask the run to save and stop, as a signal does, but not before its first step; from any thread."""
        if self._is_over or self._event.is_set():
            return
        self._event.set()
        what = {
            "preparing": "saving and stopping after the first step",
            "training": "saving and stopping",
            "saved": "all is saved, and it ends",
        }
        self._notify(f"{reason}: {what[self._phase]}")

    def prepares(self, holds_checkpoint: Callable[[], bool]) -> None:
        """A run begins, or the next of several."""
        self.holds_checkpoint, self._phase = holds_checkpoint, "preparing"

    def started(self) -> None:
        """The run has made a step: from now on a signal asks it to save."""
        self._phase = "training"

    def saved(self) -> None:
        """A checkpoint holds every step that was made."""
        self._phase = "saved"

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        reader, writer = socket.socketpair()
        writer.setblocking(False)  # the C handler must never wait
        watcher = threading.Thread(target=self._watch, args=(reader,), name="stop-signal", daemon=True)
        watcher.start()
        old_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        old_handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        if self._until_exit:
            old_handlers = dict.fromkeys(SIGNALS, signal.SIG_IGN)
        self._undo = [
            *(
                lambda n=number, h=handler: signal.signal(n, h or signal.SIG_DFL)
                for number, handler in old_handlers.items()
            ),
            lambda: signal.set_wakeup_fd(old_fd),
            writer.close,  # the watcher reads the end and returns
            watcher.join,
            reader.close,
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._leave is None:  # it was to be set, but something failed; the watcher may wait for it
            self.leave = _exit_with
        self._is_over = True
        for undo in self._undo:
            undo()
        self._undo = []

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._event.set()  # in case another library took the wakeup socket

    def _watch(self, reader: socket.socket) -> None:
        first = None
        while received := reader.recv(64):
            for number in received:
                if number not in SIGNALS:
                    continue
                now = time.monotonic()
                if first is None:
                    first = now
                    self._take_first(number)
                elif now - first >= SECOND_SIGNAL_SECONDS:
                    self._end_at_once(number)

    def _take_first(self, number: int) -> None:
        self._event.set()
        if self._phase == "preparing":
            self._end_at_once(number)
            return
        what = "saving and stopping" if self._phase == "training" else "all is saved, and it ends"
        self._notify(f"{_name(number)}: {what}; again to stop at once")

    def _end_at_once(self, number: int) -> None:
        code = EXIT_BY_SIGNAL + number
        if self._phase == "saved":
            code, said = EXIT_PREEMPTED, "stopping at once; all is saved"
        elif self._phase == "training":
            said = "stopping at once; nothing was saved since the first signal"
        elif self._has_checkpoint():
            code, said = (
                EXIT_PREEMPTED,
                "stopping; no step was made since the start, and all earlier ones are saved",
            )
        else:
            said = "stopping; no step was made since the start, and nothing is saved"
        said = f"{_name(number)}: {said}"
        self._notify(said)
        self._depart(code, said)

    def _depart(self, code: int, said: str) -> None:
        """End the process through `leave`, which can tell others of it, even if it changes meanwhile."""
        while not self._is_over:
            self._may_leave.wait()
            leave = self._leave
            if leave is not None:
                leave(code, said)  # it returns if another is about to be set
            while self._leave is leave and not self._is_over:
                time.sleep(0.01)

    def _has_checkpoint(self) -> bool:
        try:
            return self.holds_checkpoint()
        except OSError:
            return False


def _exit_with(code: int, said: str) -> None:
    os._exit(code)


def _name(number: int) -> str:
    return signal.Signals(number).name


def _print_notice(text: str) -> None:
    with suppress(OSError, ValueError):  # a closed stderr must not end the thread that takes the next signal
        print(f"\nflaxmill: {text}", file=sys.stderr, flush=True)
