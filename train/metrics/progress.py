"""What a person sees while a run trains: a live line on a terminal, now and then a line elsewhere."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

SECONDS_BETWEEN_LINES = 5.0


class ProgressLine:
    """Loss, tokens/s, MFU where the peak is known, and the time left."""

    def __init__(self, first: int, steps: int, quiet: bool = False) -> None:
        self.first, self.steps = first, steps
        self._console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._started = self._printed = time.monotonic()
        self._timed_from = first
        self._live: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and self.steps > self.first:
            columns = (
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(30),
                TextColumn("{task.fields[text]}"),
            )
            self._live = Progress(*columns, console=self._console, refresh_per_second=4)
            self._live.start()
            self._task = self._live.add_task("", total=self.steps, completed=self.first, text="compiling")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line above the live one."""
        self._console.print(text, markup=False)

    def update(self, done: int, metrics: Mapping[str, Any], *, line: bool) -> None:
        """Show `done` steps; `line`: the metrics are fit to print, as after a logged step."""
        if done == self.first + 1:  # it compiled, which says nothing about the time left
            self._started, self._timed_from = time.monotonic(), done
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=done, text=self._text(done, metrics))
        elif line and (time.monotonic() - self._printed > SECONDS_BETWEEN_LINES or done == self.steps):
            self._printed = time.monotonic()
            self.say(f"step {done}/{self.steps}  {self._text(done, metrics)}")

    def _text(self, done: int, metrics: Mapping[str, Any]) -> str:
        parts = [f"loss {metrics['loss']:.3f}", f"{short_number(metrics['tokens_per_second'])} tokens/s"]
        if "mfu" in metrics:
            parts.append(f"MFU {metrics['mfu']:.1%}")
        num_timed = done - self._timed_from
        if num_timed or done == self.steps:  # else it is not known yet how long a step takes
            per_step = (time.monotonic() - self._started) / max(1, num_timed)
            parts.append(f"{_duration(per_step * (self.steps - done))} left")
        return "  ".join(parts)


class Told:
    """Call it with how much is done: every few seconds it says on stderr how much that is, and how fast."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self._what, self._of = what, "" if total is None else f" of {total:,}"
        self._started = self._told = time.monotonic()

    def __call__(self, num_done: int) -> None:
        now = time.monotonic()
        if now - self._told < SECONDS_BETWEEN_LINES:
            return
        self._told = now
        rate = short_number(num_done / (now - self._started))
        print(f"flaxmill: {num_done:,}{self._of} {self._what}, {rate} a second", file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """A line on stderr that a person must not miss."""
    print(f"flaxmill: warning: {text}", file=sys.stderr, flush=True)


def short_number(value: float) -> str:
    """1234567 -> 1.23M"""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
