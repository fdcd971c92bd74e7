"""MinHash signatures of texts: the more runs of words two texts share, the more numbers are equal in theirs.

The permutations are those of the library datasketch, whose MinHash makes the same numbers of the same runs.
NumPy applies them to many texts at once, which is six times as fast as the library's own loop.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxmill.data.duplicates.shingles import hash_shingles

NUM_PERMUTATIONS = 128
NO_WORDS = np.uint32(0xFFFF_FFFF)
"""Every number in the signature of a text without words."""

# datasketch's name for permutations a * hash + b modulo 2^32, and its seed; both are named here so that a new
# default of the library changes no signature.
_SCHEME: Any = "affine32"
_SEED = 1
# Texts are signed in blocks of about so many characters: their arrays then stay in a core's cache.
_BLOCK_CHARACTERS = 1 << 16


def find_library() -> Any:
    """The module datasketch. Raises ValueError where it is not installed."""
    try:
        import datasketch
    except ImportError:
        raise ValueError(
            "near duplicates are found with the library datasketch, which is not installed; run "
            "`pip install 'flaxmill[duplicates]'`, or use data.duplicates=keep or drop_exact"
        ) from None
    return datasketch


def sign(texts: Sequence[str]) -> np.ndarray:
    """Uint32 [n, 128]: the MinHash signature of each text's set of runs of 5 words (Broder 1997).

    The share of places at which two signatures are equal estimates the Jaccard similarity of the two sets,
    with a standard deviation of at most 0.044. Raises ValueError where datasketch is not installed.
    """
    factors, offsets = find_library().MinHash(NUM_PERMUTATIONS, seed=_SEED, scheme=_SCHEME).permutations
    signatures = np.full((len(texts), NUM_PERMUTATIONS), NO_WORDS)
    first = size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if size >= _BLOCK_CHARACTERS or number == len(texts) - 1:
            hashes, counts = hash_shingles(texts[first : number + 1])
            has_words = first + np.flatnonzero(counts)
            if len(has_words):
                starts = (np.cumsum(counts) - counts)[counts > 0]
                signatures[has_words] = _least(_mix(hashes), starts, factors, offsets)
            first, size = number + 1, 0
    return signatures


def _least(hashes: np.ndarray, starts: np.ndarray, factors: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The least permuted hash of each text under each permutation; a text's hashes begin at its start."""
    least = np.empty((NUM_PERMUTATIONS, len(starts)), np.uint32)
    permuted = np.empty_like(hashes)
    for number, (factor, offset) in enumerate(zip(factors, offsets, strict=True)):
        np.multiply(hashes, factor, out=permuted)
        np.add(permuted, offset, out=permuted)
        np.minimum.reduceat(permuted, starts, out=least[number])
    return least.T


def _mix(hashes: np.ndarray) -> np.ndarray:
    """MurmurHash3's finaliser (Appleby 2011), which datasketch applies to hashes before it permutes them."""
    hashes = (hashes ^ (hashes >> np.uint32(16))) * np.uint32(0x85EB_CA6B)
    hashes = (hashes ^ (hashes >> np.uint32(13))) * np.uint32(0xC2B2_AE35)
    return hashes ^ (hashes >> np.uint32(16))
