"""How far arrays are from a reference, as one number that NaN cannot hide in."""

from typing import Any

import jax
import numpy as np


def distance(found: Any, wanted: Any) -> float:
    """|found - wanted| / |wanted| over all leaves of two trees of arrays together, in float64."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True))
    apart = sum(np.square(_exact(a) - _exact(b)).sum() for a, b in pairs)
    size = sum(np.square(_exact(b)).sum() for _, b in pairs)
    result = float(np.sqrt(apart / size))
    return result if np.isfinite(result) else float("inf")


def same_bits(found: Any, wanted: Any) -> bool:
    """Whether two arrays of one dtype hold the same bits."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    return found.dtype == wanted.dtype and found.tobytes() == wanted.tobytes()


def _exact(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.float64)
