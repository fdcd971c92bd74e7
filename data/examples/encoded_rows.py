"""Lists of unequal lengths as one array."""

from collections.abc import Sequence

import numpy as np


def pad_rows(rows: Sequence[Sequence[int] | np.ndarray], width: int, fill: int = 0) -> np.ndarray:
    """int32 [rows, width]: each row at the left, `fill` behind it. No row may be longer."""
    padded = np.full((len(rows), width), fill, np.int32)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return padded


def lengths_of(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """The length of each row, int32 [rows]."""
    return np.array([len(row) for row in rows], np.int32)
