"""metrics.jsonl as columns: the numbers of each name over the steps, and what happened at some of them."""

import math
from array import array
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeGuard

import numpy as np

from flaxmill.train.experiment import MAX_STEPS
from flaxmill.train.metrics.metrics_file import MetricsRow, has_step, read_lines

# Of what a row says besides numbers to draw.
_NOT_DRAWN = {"step", "num_tokens", "skipped_steps", "batch_digest"}
_MAX_VALUE = float(np.finfo(np.float32).max)  # of what a run computes; beyond it the differences overflow
MAX_EVENTS = 400  # more cannot be told apart in a chart


class Column(NamedTuple):
    """Numbers over ascending steps; NaN where a value was not finite in float32."""

    steps: np.ndarray
    values: np.ndarray


class Event(NamedTuple):
    """Something that the loss alone does not tell."""

    kind: Literal["skipped", "rollback"]
    step: int
    text: str


class Metrics(NamedTuple):
    """What a run has measured."""

    columns: dict[str, Column]
    events: list[Event]
    """Ascending by step, at most MAX_EVENTS."""
    num_rows: int
    num_unread: int
    """Lines that are no rows; a killed writer leaves one."""
    first_unread: int | None
    """The number of the first such line, from 1."""


def read_columns(path: Path) -> Metrics:
    """The columns of a run's metrics. Of a step that was written twice the later row counts, and what a
    rollback has undone is left out.

    Raises:
      ValueError: `path` is no file, or holds lines but not one row.
    """
    reader = _Reader()
    unread: list[int] = []
    num_rows = 0
    for number, row in enumerate(read_lines(path), start=1):
        if row is None or not has_step(row) or not 0 <= row["step"] <= MAX_STEPS:
            unread.append(number)
            continue
        num_rows += 1
        reader.take(row)
    if unread and not num_rows:
        raise ValueError(
            f"{path} is damaged: line {unread[0]} is no JSON object with a step, nor is any other; restore it"
        )
    columns = reader.columns()
    events = _skipped(columns) + reader.rollbacks
    events.sort(key=lambda event: event.step)
    drawn = {name: column for name, column in columns.items() if name not in _NOT_DRAWN}
    return Metrics(drawn, events, num_rows, len(unread), unread[0] if unread else None)


class _Reader:
    """Collects the numbers of rows by name, 16 bytes each."""

    def __init__(self) -> None:
        self._steps: dict[str, array] = defaultdict(lambda: array("q"))
        self._values: dict[str, array] = defaultdict(lambda: array("d"))
        self.rollbacks: list[Event] = []

    def take(self, row: MetricsRow) -> None:
        step = row["step"]
        if "rollback_from" in row:
            self._roll_back(row)
            return
        for name, value in row.items():
            if type(value) is not float:
                if not (value is None or type(value) is int):
                    continue  # a text, a list or a truth value
                value = _as_float(value)
            self._steps[name].append(step)
            self._values[name].append(value)

    def columns(self) -> dict[str, Column]:
        made = {}
        for name, stored in self._steps.items():
            steps, values = np.array(stored), np.array(self._values[name])
            values[~(np.abs(values) <= _MAX_VALUE)] = np.nan
            if (np.diff(steps) <= 0).any():
                # Of equal steps np.unique finds the first, which in reverse is the one written last.
                steps, places = np.unique(steps[::-1], return_index=True)
                values = values[::-1][places]
            made[name] = Column(steps, values)
        return made

    def _roll_back(self, row: MetricsRow) -> None:
        step, loss = row["step"], row.get("spike_loss")
        for name, steps in self._steps.items():
            while steps and steps[-1] >= step:
                steps.pop()
                self._values[name].pop()
        came_from, batches = row["rollback_from"], row.get("skipped_batches")
        spiked = f"the loss spiked to {loss:.4g}" if isinstance(loss, int | float) else "the loss spiked"
        skipped = f", skipping batches {batches[0]:,} to {batches[1]:,}" if _is_pair(batches) else ""
        at = came_from if type(came_from) is int and 0 <= came_from <= MAX_STEPS else step
        if len(self.rollbacks) < MAX_EVENTS:
            self.rollbacks.append(Event("rollback", at, f"{spiked}; back to step {step:,}{skipped}"))


def _as_float(value: int | None) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:  # a row may have been changed by hand
        return math.nan


def _is_pair(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) == 2 and all(type(number) is int for number in value)


def _skipped(columns: dict[str, Column]) -> list[Event]:
    """Where updates were left out: the count of them rises, or else the loss is not finite."""
    if (counts := columns.get("skipped_steps")) is not None:
        more = np.diff(counts.values, prepend=0.0)
        steps = counts.steps
    elif (loss := columns.get("loss")) is not None:
        more, steps = np.isnan(loss.values).astype(float), loss.steps
    else:
        return []
    places = np.flatnonzero(more > 0)
    groups = np.array_split(places, min(len(places), MAX_EVENTS)) if len(places) else []
    return [_skipped_event(steps, more, group) for group in groups]


def _skipped_event(steps: np.ndarray, more: np.ndarray, places: np.ndarray) -> Event:
    """One event for neighbouring rows; the count of a row is of all steps since the row before it."""
    number, last = int(more[places].sum()), int(steps[places[-1]])
    first = int(steps[places[0] - 1]) + 1 if places[0] else int(min(steps[0], last))
    where = f"step {last:,}" if first == last else f"steps {first:,} to {last:,}"
    updates = "the update is" if number == 1 else f"{number:,} updates are"
    return Event("skipped", last, f"{where}: loss or gradient is not finite; {updates} left out")
