"""Texts of any lengths as few rows of few widths, so that few programs compute them and little is padding."""

# B rows, T tokens of a row, G texts that may share it

import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

LEAST_WIDTH = 64
"""Tokens of the narrowest row. Attention costs the square of a row: this is the width from which on padding
costs less than attention to the row's other texts, which nothing reads."""
BATCH_SIZE = 32
"""Rows of the least width that are computed together, unless told otherwise."""
_TOKENS_OF_SLOT = 4  # a row has a slot for so many of its tokens; few texts are shorter


class PackedRows(NamedTuple):
    """Rows that one program computes."""

    tokens: np.ndarray
    """int32 [B,T]"""
    documents: np.ndarray
    """int32 [B,T]: 1 to G for the texts of a row, 0 at padding."""
    numbers: np.ndarray
    """int32 [B,G]: the number of each text, -1 where a row has fewer."""
    starts: np.ndarray
    """int32 [B,G]: the place of each text's first token."""


class _Row:
    """The texts that share a row."""

    def __init__(self, width: int) -> None:
        self.width = self.free = width
        self.numbers: list[int] = []

    @property
    def is_open(self) -> bool:
        return self.free > 0 and len(self.numbers) < num_slots(self.width)


def num_slots(width: int) -> int:
    """The most texts that share a row of so many tokens."""
    return max(1, width // _TOKENS_OF_SLOT)


def pack(
    texts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    limit: int | None = None,
    multiple: int = 1,
    shares: bool = True,
) -> Iterator[PackedRows]:
    """Every text with a token in exactly one row, whole; the longest come first.

    A row is the narrowest of 64, 128, 256 ... tokens that holds its longest text. A text goes where it leaves
    the least room, and opens a row only where it fits into none.

    Args:
      batch_size: rows of 64 tokens in one batch; of wider rows as many as have no more tokens. Where fewer
        are left it is the next power of two, so that a width has few programs.
      limit: the widest row, which no text may exceed.
      multiple: the number of rows is divisible by this.
      shares: False: each text has a row of its own.
    """
    order = sorted((number for number in range(len(texts)) if texts[number]), key=lambda n: -len(texts[n]))
    rows = _fill([(number, len(texts[number])) for number in order], limit, shares)
    for width in sorted({row.width for row in rows}, reverse=True):
        of_width = [row for row in rows if row.width == width]
        most = max(1, batch_size * LEAST_WIDTH // width)
        num_rows = min(most, 1 << (len(of_width) - 1).bit_length())
        num_rows += -num_rows % multiple
        for first in range(0, len(of_width), num_rows):
            yield _lay_out(of_width[first : first + num_rows], texts, num_rows, width)


def _fill(lengths: Sequence[tuple[int, int]], limit: int | None, shares: bool) -> list[_Row]:
    rows: list[_Row] = []
    places: list[tuple[int, int]] = []  # (free tokens, number of the row), sorted
    for number, length in lengths:
        found = bisect.bisect_left(places, (length, -1)) if shares else len(places)
        if found < len(places):
            place = places.pop(found)[1]
        else:
            place = len(rows)
            rows.append(_Row(_width(length, limit)))
        row = rows[place]
        row.numbers.append(number)
        row.free -= length
        if row.is_open:
            bisect.insort(places, (row.free, place))
    return rows


def _width(length: int, limit: int | None) -> int:
    width = LEAST_WIDTH << max(0, (length - 1).bit_length() - (LEAST_WIDTH - 1).bit_length())
    assert limit is None or length <= limit
    return width if limit is None else min(width, limit)


def _lay_out(rows: list[_Row], texts: Sequence[Sequence[int]], num_rows: int, width: int) -> PackedRows:
    tokens, documents = (np.zeros((num_rows, width), np.int32) for _ in range(2))
    numbers = np.full((num_rows, num_slots(width)), -1, np.int32)
    starts = np.zeros_like(numbers)
    for place, row in enumerate(rows):
        start = 0
        for slot, number in enumerate(row.numbers):
            end = start + len(texts[number])
            tokens[place, start:end] = texts[number]
            documents[place, start:end] = slot + 1
            numbers[place, slot], starts[place, slot] = number, start
            start = end
    return PackedRows(tokens, documents, numbers, starts)
