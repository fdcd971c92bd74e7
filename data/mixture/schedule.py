"""Says which source gives row g of a run, and which of its rows it is, from g alone.

Between two changes the sources take turns in a fixed order that repeats. In every prefix of it each source
has given its share of the rows, rounded up or down: its j-th row is due in the slots that leave it neither a
row ahead nor a row behind, and the row with the earliest deadline goes first, which always succeeds (Baruah
et al. 1996, "Proportionate progress").
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

# g number of a row of the run, K sources, S slots of a turn

_MAX_SLOTS = 1 << 16
# Shares that are no short fractions become multiples of this.
_SLOTS_OF_ROUNDED = 1 << 14


class Change(NamedTuple):
    """Weights [K] from row `start` of the run on."""

    start: int
    weights: tuple[float, ...]


class Located(NamedTuple):
    """For each row: its source [n], and its number among that source's rows [n]."""

    sources: np.ndarray
    numbers: np.ndarray


class _Turn(NamedTuple):
    """An order of the sources that repeats: the source of each slot, its number among the slots of its source
    (both [S]), and how many slots each source has [K]."""

    sources: np.ndarray
    occurrences: np.ndarray
    counts: np.ndarray


class _Segment(NamedTuple):
    """From row `start` on, `turn` repeats; `given` [K] rows of each source came before."""

    start: int
    given: np.ndarray
    turn: _Turn


class Schedule:
    """The source of every row of a run; the weights may change, and a source may be used up.

    Args:
      changes: the weights from row 0 on, and at later rows, in order.
      limits: the rows that each source gives at most; None: it has no limit.
    """

    def __init__(self, changes: Sequence[Change], limits: Sequence[int | None]):
        assert changes[0].start == 0
        self._segments: list[_Segment] = []
        self.num_rows: int | None = None
        """How many rows there are before all sources are used up; None: there is no end."""
        self._build(changes, limits)
        self._starts = np.array([segment.start for segment in self._segments], np.int64)

    def locate(self, rows: np.ndarray) -> Located:
        """The sources of rows [n] of the run. Raises ValueError for rows beyond the end."""
        if self.num_rows is not None and rows.size and rows.max() >= self.num_rows:
            raise ValueError(
                f"the sources of the mixture are read up after {self.num_rows:,} rows; allow more epochs, or "
                "train for fewer steps"
            )
        which = np.searchsorted(self._starts, rows, side="right") - 1
        sources, numbers = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        for index in np.unique(which):
            chosen = which == index
            sources[chosen], numbers[chosen] = _locate(self._segments[index], rows[chosen])
        return Located(sources, numbers)

    def count(self, row: int) -> np.ndarray:
        """How many of the first `row` rows each source gives [K]."""
        return _count(self._segments[int(np.searchsorted(self._starts, row, side="right")) - 1], row)

    def _build(self, changes: Sequence[Change], limits: Sequence[int | None]) -> None:
        start, given = 0, np.zeros(len(limits), np.int64)
        for index, change in enumerate(changes):
            end = changes[index + 1].start if index + 1 < len(changes) else None
            while end is None or start < end:
                is_left = [
                    limit is None or before < limit for limit, before in zip(limits, given, strict=True)
                ]
                weights = [w if left else 0.0 for w, left in zip(change.weights, is_left, strict=True)]
                if not any(weights):
                    self.num_rows = start
                    if not self._segments:
                        raise ValueError("no source of the mixture has a row to give; give more text")
                    return
                segment = _Segment(start, given, _take_turns(to_slots(weights)))
                self._segments.append(segment)
                used_up = _first_used_up(segment, limits)
                if used_up is None or (end is not None and used_up >= end):
                    break
                start, given = used_up, _count(segment, used_up)
            if end is not None:
                start, given = end, _count(self._segments[-1], end)


def to_slots(weights: Sequence[float]) -> tuple[int, ...]:
    """The slots of each source in a turn: the weights as whole numbers without a common divisor.

    Weights are read as decimals, so that 0.7, 0.2 and 0.1 give 7, 2 and 1. Where a turn would have more than
    65,536 slots, shares are rounded to multiples of 1/16,384, none of them to 0.
    """
    exact = [Fraction(repr(float(weight))) for weight in weights]
    common = math.lcm(*(value.denominator for value in exact))
    slots = [int(value * common) for value in exact]
    divisor = math.gcd(*slots)
    slots = [value // divisor for value in slots]
    if sum(slots) <= _MAX_SLOTS:
        return tuple(slots)
    total = sum(exact)
    rounded = [max(1, round(value / total * _SLOTS_OF_ROUNDED)) if value else 0 for value in exact]
    divisor = math.gcd(*rounded)
    return tuple(value // divisor for value in rounded)


def weigh_by_size(
    weights: Mapping[str, float], sizes: Mapping[str, int], temperature: float
) -> dict[str, float]:
    """Each weight times size**(1/temperature): 1 mixes in proportion to the sizes, infinity by weights alone
    (Raffel et al. 2020, 3.5.2, "temperature-scaled mixing")."""
    largest = max(sizes.values())
    return {name: weight * (sizes[name] / largest) ** (1 / temperature) for name, weight in weights.items()}


def _take_turns(slots: Sequence[int]) -> _Turn:
    """The order of a turn. The j-th row of a source with share p may come from slot floor((j-1)/p) on, and
    must have come before slot ceil(j/p)."""
    num_slots = sum(slots)
    waiting = [(0, source) for source, count in enumerate(slots) if count]  # (slot of release, source)
    heapq.heapify(waiting)
    released: list[tuple[int, int]] = []  # (deadline, source)
    given = [0] * len(slots)
    sources, occurrences = np.empty(num_slots, np.int64), np.empty(num_slots, np.int64)
    for slot in range(num_slots):
        while waiting and waiting[0][0] <= slot:
            _, source = heapq.heappop(waiting)
            deadline = -(-(given[source] + 1) * num_slots // slots[source])
            heapq.heappush(released, (deadline, source))
        deadline, source = heapq.heappop(released)
        assert deadline > slot, "a share is behind by a row"
        sources[slot], occurrences[slot] = source, given[source]
        given[source] += 1
        if given[source] < slots[source]:
            heapq.heappush(waiting, (given[source] * num_slots // slots[source], source))
    return _Turn(sources, occurrences, np.array(slots, np.int64))


def _locate(segment: _Segment, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    turn = segment.turn
    turns, slot = np.divmod(rows - segment.start, len(turn.sources))
    sources = turn.sources[slot]
    return sources, segment.given[sources] + turns * turn.counts[sources] + turn.occurrences[slot]


def _count(segment: _Segment, row: int) -> np.ndarray:
    """How many of the first `row` rows of the run each source gives [K]; the segment has the last of them."""
    turns, slot = divmod(row - segment.start, len(segment.turn.sources))
    first = np.bincount(segment.turn.sources[:slot], minlength=len(segment.given))
    return segment.given + turns * segment.turn.counts + first


def _first_used_up(segment: _Segment, limits: Sequence[int | None]) -> int | None:
    """The first row of the run before which a source of this segment has given all its rows."""
    turn, ends = segment.turn, []
    for source, limit in enumerate(limits):
        if limit is None or not turn.counts[source]:
            continue
        turns, occurrence = divmod(limit - int(segment.given[source]) - 1, int(turn.counts[source]))
        slot = int(np.flatnonzero(turn.sources == source)[occurrence])
        ends.append(segment.start + turns * len(turn.sources) + slot + 1)
    return min(ends, default=None)
