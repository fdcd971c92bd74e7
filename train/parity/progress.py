"""Says on stderr what `flaxmill parity` is doing, once it takes longer than people wait in silence."""

import sys
import threading
from types import TracebackType
from typing import Self

SECONDS_IN_SILENCE = 5.0


class Progress:
    """Call it with what begins; in the first seconds nothing is printed, after that each call is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current = ""
        self._speaks = False
        self._timer = threading.Timer(SECONDS_IN_SILENCE, self._begin_to_speak)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()

    def __call__(self, text: str) -> None:
        with self._lock:
            self._current = text
            if self._speaks:
                _print(text)

    def _begin_to_speak(self) -> None:
        with self._lock:
            self._speaks = True
            _print(self._current)


def _print(text: str) -> None:
    print(f"flaxmill: {text}", file=sys.stderr, flush=True)
