"""Finds documents that are almost equal to an earlier one, by the bands of their MinHash signatures."""

import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from flaxmill.data.draws import bits
from flaxmill.data.duplicates.signatures import NO_WORDS, NUM_PERMUTATIONS

THRESHOLD = 0.8
"""The share of equal numbers in two signatures from which on their texts are near duplicates."""
NUM_BANDS, BAND_LENGTH = 16, 8
"""Two texts are compared if all numbers of a band are equal: 95% of those whose similarity is 0.8, and all
but 1 in 10,000 of those with 0.9."""
MOST_COMPARED = 16
"""A document is compared with so many of the latest kept ones that share one of its bands."""

_LEAST_EQUAL = int(np.ceil(THRESHOLD * NUM_PERMUTATIONS))
_NONE = -1


class SignedPart(NamedTuple):
    """The signatures of n documents in their order.

    signatures: uint32 [n, 128], as `signatures.sign` makes them; better on disk, as a memory map.
    is_held_out: bool [n].
    is_gone: bool [n]: such a document is like none, for instance because it is dropped already.
    """

    signatures: np.ndarray
    is_held_out: np.ndarray
    is_gone: np.ndarray


def find_near(parts: Sequence[SignedPart]) -> list[np.ndarray]:
    """Bool [n] for each part: which documents are like an earlier one that is kept.

    Held-out documents come first, then the others, each in their order. A document that is like a kept one is
    not kept, so nothing is like it. The answer is the same however documents are divided into parts.

    Memory: about 95 bytes a document, most of them for its bands. Signatures are read from the parts: once in
    order, and again for the few that are compared.
    """
    if not parts:
        return []
    starts = np.cumsum([0, *(len(part.signatures) for part in parts)])
    is_held_out = np.concatenate([np.asarray(part.is_held_out) for part in parts])
    bands, num_groups = _group(_read_bands(parts, starts))
    in_group = (bands != _NONE).any(0)
    walk = _Walk(parts, starts, bands, num_groups)
    is_near = np.zeros(starts[-1], bool)
    for side in (is_held_out, ~is_held_out):
        for number in _each(in_group & side):
            is_near[number] = walk.is_near(number)
    return np.split(is_near, starts[1:-1])


def _read_bands(parts: Sequence[SignedPart], starts: np.ndarray) -> np.ndarray:
    """Int32 [16, documents]: a hash of each band, 0 for documents that are like none.

    Two hashes of 32 bits are equal by chance for 1 pair in 4 billion; signatures are compared afterwards.
    """
    bands = np.zeros((NUM_BANDS, starts[-1]), np.int32)
    for part, start in zip(parts, starts[:-1], strict=True):
        signatures = np.asarray(part.signatures)
        hidden = np.asarray(part.is_gone) | (signatures == NO_WORDS).all(1)
        for band in range(NUM_BANDS):
            first = band * BAND_LENGTH
            columns = signatures[:, first : first + BAND_LENGTH].T
            hashes = (bits(*columns) >> np.uint64(32)).astype(np.uint32)
            hashes = np.where(hidden, 0, np.maximum(hashes, 1))
            bands[band, start : start + len(signatures)] = hashes.view(np.int32)
    return bands


def _group(bands: np.ndarray) -> tuple[np.ndarray, int]:
    """The bands with the number of its group in place of each hash that several documents share, -1 for the
    others; and how many groups there are. It overwrites its argument."""
    num_groups = 0
    for hashes in bands:
        order = np.argsort(hashes)
        ordered = hashes[order]
        is_start = np.ones(len(hashes), bool)
        is_start[1:] = ordered[1:] != ordered[:-1]
        is_alone = is_start.copy()
        is_alone[:-1] &= is_start[1:]
        has_group = ~is_alone & (ordered != 0)
        groups = np.cumsum(is_start & has_group, dtype=np.int32) + np.int32(num_groups - 1)
        num_groups = int(groups[-1]) + 1 if len(groups) else 0
        hashes[order] = np.where(has_group, groups, _NONE)
    return bands, num_groups


class _Walk:
    """Compares documents with the kept ones of their groups, one after the other.

    A group's kept documents are a list: the latest, then from each the one before it. Once a document is
    judged, its row of `bands` holds these links in place of its groups.
    """

    def __init__(self, parts: Sequence[SignedPart], starts: np.ndarray, bands: np.ndarray, num_groups: int):
        self._parts, self._starts, self._bands = parts, starts.tolist(), bands
        self._latest = np.full(num_groups, _NONE, np.int32)

    def is_near(self, number: int) -> bool:
        """Whether the document is like a kept one; if it is like none, it is kept."""
        groups = self._bands[:, number]
        compared: set[int] = set()
        own = self._signature(number)
        for band in np.flatnonzero(groups != _NONE).tolist():
            for other in self._kept(band, int(groups[band])):
                if other not in compared:
                    compared.add(other)
                    if np.count_nonzero(own == self._signature(other)) >= _LEAST_EQUAL:
                        return True
        has_group = groups != _NONE
        chosen = groups[has_group]
        self._bands[has_group, number] = self._latest[chosen]
        self._latest[chosen] = number
        return False

    def _kept(self, band: int, group: int) -> Iterator[int]:
        other = int(self._latest[group])
        for _ in range(MOST_COMPARED):
            if other == _NONE:
                return
            yield other
            other = int(self._bands[band, other])

    def _signature(self, number: int) -> np.ndarray:
        part = bisect.bisect_right(self._starts, number) - 1
        return self._parts[part].signatures[number - self._starts[part]]


def _each(chosen: np.ndarray) -> Iterator[int]:
    """The numbers of the chosen documents, some at a time, so that they are never all in memory."""
    for start in range(0, len(chosen), 1 << 16):
        yield from (start + np.flatnonzero(chosen[start : start + (1 << 16)])).tolist()
