"""Rows that hold whole documents or whole sentences: each is put where it fits, and a row is padded."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flaxmill.data.config import Packing

# T tokens of a row as the model sees it; a stored row holds T+1.

# So many rows are open at once: enough to fill nearly all of each, and few enough to keep memory flat.
OPEN_ROWS = 256


class _Part(NamedTuple):
    """Tokens that stay together in one row."""

    tokens: np.ndarray
    following: np.ndarray
    """The next token of their document where the text was cut because it is longer than a row; else empty."""
    continues: bool
    """Whether they go on with the document of the part before."""


class _Row:
    """An open row."""

    def __init__(self, width: int):
        self.tokens = np.zeros(width, np.int32)
        self.starts = np.zeros(width, bool)
        self.length = 0

    def append(self, part: _Part, is_start: bool) -> None:
        end = self.length + len(part.tokens)
        self.tokens[self.length : end] = part.tokens
        self.starts[self.length] = is_start
        self.length = end
        if end == len(self.tokens) - 1 and len(part.following):
            self.tokens[end] = part.following[0]
            self.length = end + 1


class FittedPacker:
    """Packs a stream of documents into stored rows, and holds a bounded number of open rows between calls.

    best_fit puts a document into the open row that it fills best, first_fit into the oldest that has room.
    Where none has room a new row is opened, and if there are OPEN_ROWS already, the fullest is written first.
    full_sentences keeps one row open, and writes it when the next sentence does not fit (Liu et al. 2019,
    4.2). What is longer than a row is cut: its first pieces fill rows of their own, whose last target is the
    first token of the next piece.
    """

    def __init__(self, sequence_length: int, packing: Packing, open_rows: int = OPEN_ROWS):
        self.num_tokens = 0
        self.num_rows = 0
        self._length = sequence_length
        self._is_best = packing == "best_fit"
        self._most_open = 1 if packing == "full_sentences" else open_rows
        self._open: list[_Row] = []
        self._room = np.zeros(0, np.int64)  # of each open row
        self._full: list[_Row] = []
        self._last: _Row | None = None  # where the part before was put

    def add(self, documents: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Takes documents (non-empty int arrays); returns the rows that are written now."""
        return self.add_parts([[document] for document in documents])

    def add_parts(self, documents: Sequence[Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
        """As `add`, for documents each given as the parts that stay together in a row."""
        for parts in documents:
            for number, tokens in enumerate(parts):
                self.num_tokens += len(tokens)
                for start in range(0, len(tokens), self._length):
                    end = start + self._length
                    part = _Part(tokens[start:end], tokens[end : end + 1], number > 0 or start > 0)
                    self._put(part)
        return self._take_full()

    def finish(self) -> dict[str, np.ndarray]:
        """The rows that are still open."""
        self._full += self._open
        self._open, self._room = [], np.zeros(0, np.int64)
        return self._take_full()

    def _put(self, part: _Part) -> None:
        place = self._find(len(part.tokens))
        row = self._open[place]
        row.append(part, is_start=not (part.continues and row is self._last))
        self._last = row
        self._room[place] -= len(part.tokens)
        if not self._room[place]:
            self._close(place)

    def _find(self, size: int) -> int:
        """The place of an open row with room for so many tokens."""
        fitting = np.flatnonzero(self._room >= size)
        if len(fitting):
            return int(fitting[np.argmin(self._room[fitting])] if self._is_best else fitting[0])
        if len(self._open) == self._most_open:
            self._close(int(np.argmin(self._room)))
        self._open.append(_Row(self._length + 1))
        self._room = np.append(self._room, self._length)
        return len(self._open) - 1

    def _close(self, place: int) -> None:
        self._full.append(self._open.pop(place))
        self._room = np.delete(self._room, place)

    def _take_full(self) -> dict[str, np.ndarray]:
        rows, self._full = self._full, []
        self.num_rows += len(rows)
        width = self._length + 1
        tokens = np.array([row.tokens for row in rows], np.int32).reshape(len(rows), width)
        starts = np.array([row.starts for row in rows], bool).reshape(len(rows), width)
        lengths = np.array([row.length for row in rows], np.int32)
        return {"tokens": tokens, "starts": np.packbits(starts, axis=1), "length": lengths}
