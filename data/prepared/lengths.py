"""How many documents or rows have which length: a histogram whose bins grow by the root of two."""

import math
from collections.abc import Sequence

import numpy as np

_NUM_BINS = 64  # the last begins at 2 billion tokens
_EDGES = np.array([math.isqrt(2**number - 1) + 1 if number else 1 for number in range(_NUM_BINS)])


class LengthHistogram:
    """Counts of lengths of at least one token: bin k holds lengths from 2^(k/2) to below 2^((k+1)/2)."""

    def __init__(self):
        self._counts = np.zeros(_NUM_BINS, np.int64)

    def add(self, lengths: Sequence[int] | np.ndarray, weights: np.ndarray | None = None) -> None:
        """Counts lengths, each once or as often as its weight says."""
        bins = np.searchsorted(_EDGES, np.asarray(lengths), side="right") - 1
        np.add.at(self._counts, np.maximum(bins, 0), 1 if weights is None else weights)

    @classmethod
    def of_counts(cls, counts: np.ndarray) -> "LengthHistogram":
        """The histogram of n-th counts of length n."""
        histogram = cls()
        histogram.add(np.arange(len(counts)), counts)
        return histogram

    @property
    def counts(self) -> list[int]:
        """The count of each bin, up to the last that is not empty."""
        return np.trim_zeros(self._counts, "b").tolist()


def bin_edges(number: int) -> tuple[int, int]:
    """The least and the greatest length in bin `number`."""
    return int(_EDGES[number]), int(_EDGES[number + 1]) - 1
