"""Fewer points of a curve: each part keeps its least and its greatest value where they were, and its mean."""

from typing import NamedTuple

import numpy as np


class Thinned(NamedTuple):
    """Points of a curve; NaN where a whole part, or a point that is drawn itself, is not finite."""

    steps: np.ndarray
    values: np.ndarray
    mean_steps: np.ndarray | None
    """The middle of each part; None: all points are kept, and are their own means."""
    means: np.ndarray | None


def thin(steps: np.ndarray, values: np.ndarray, max_points: int) -> Thinned:
    """All points if they are at most `max_points`, which is 4 or more; else two for each of equal parts, and
    the first and the last of all."""
    num_points = len(steps)
    if num_points <= max_points:
        return Thinned(steps, values, None, None)
    size = -(-num_points // (max_points // 2 - 1))
    num_parts = -(-num_points // size)
    padded = np.full(num_parts * size, np.nan)
    padded[:num_points] = values
    parts = padded.reshape(num_parts, size)
    is_known = ~np.isnan(parts)
    starts = np.arange(num_parts) * size
    # Of a part without a number both places are its first.
    least = starts + np.where(is_known, parts, np.inf).argmin(1)
    greatest = starts + np.where(is_known, parts, -np.inf).argmax(1)
    kept = np.unique(np.concatenate([least, greatest, [0, num_points - 1]]))
    counts = is_known.sum(1)
    with np.errstate(invalid="ignore", over="ignore"):  # no number; numbers near the greatest of all
        means = np.where(is_known, parts, 0.0).sum(1) / counts
    means[~np.isfinite(means)] = np.nan
    middles = np.minimum(starts + (size - 1) // 2, num_points - 1)
    return Thinned(steps[kept], values[kept], steps[middles], means)
