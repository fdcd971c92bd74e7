"""Being told to stop: SIGTERM and SIGINT become a flag that the loop reads between steps."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: schedulers requeue
EXIT_BY_SIGNAL = 128  # and the signal's number, as shells say it
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Context manager: `requested` turns true at the first SIGTERM or SIGINT; the second exits with 75.

    Until the run has `started`, while it prepares, restores or compiles, there is nothing to save: the first
    signal ends the process at once, with 75.

    Python runs its signal handlers between bytecodes of the main thread, so not while XLA compiles there.
    The interpreter's C handler also writes the signal's number to the wakeup socket, at once and from
    whichever thread the kernel chose; a thread of ours reads it. Unlike a blocked mask and sigwait this
    works with threads that started earlier, and child processes inherit nothing.

    Outside the main thread, where Python forbids handlers, it never reports anything.
    """

    def __init__(self, notify: Callable[[str], None] | None = None) -> None:
        """Tell `notify` (default: a line on stderr) when the first signal comes, from another thread."""
        self._notify = notify or _print_notice
        self.leave: Callable[[], object] = lambda: os._exit(EXIT_PREEMPTED)
        """What ends the process at once, without a save; called from another thread."""
        self._started = False
        self._event = threading.Event()
        self._undo: list[Callable[[], Any]] = []

    @property
    def requested(self) -> bool:
        """Whether to save and stop."""
        return self._event.is_set()

    def started(self) -> None:
        """The run has made a step: from now on a signal asks it to save."""
        self._started = True

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        reader, writer = socket.socketpair()
        writer.setblocking(False)  # the C handler must never wait
        watcher = threading.Thread(target=self._watch, args=(reader,), name="stop-signal", daemon=True)
        watcher.start()
        old_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        old_handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
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
        for undo in self._undo:
            undo()
        self._undo = []

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._event.set()  # in case another library took the wakeup socket

    def _watch(self, reader: socket.socket) -> None:
        count = 0
        while received := reader.recv(64):
            for number in received:
                if number not in SIGNALS:
                    continue
                count += 1
                if count > 1:
                    self.leave()
                self._event.set()
                name = signal.Signals(number).name
                if not self._started:
                    self._notify(f"{name}: stopping; no step was made since the start, so nothing is lost")
                    self.leave()
                self._notify(f"{name}: saving and stopping; again to stop at once")


def _print_notice(text: str) -> None:
    with suppress(OSError, ValueError):  # a closed stderr must not end the thread that takes the next signal
        print(f"\nflaxmill: {text}", file=sys.stderr, flush=True)
