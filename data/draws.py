"""Counter-based random draws: a draw is a hash of the keys that name it, so no generator state is kept.

NumPy's and Python's distributions may change between versions; these integers never do.
"""

import math
from collections.abc import Callable

import numpy as np

Keys = int | np.ndarray

# Each use of randomness has its own first key, so that equal seeds never share draws.
HELD_OUT, TOKENIZER_SAMPLE, PAIR_PLAN, ROW_ORDER, ROW_DRAWS, EMBEDDED_EXAMPLES, SOURCE = range(1, 8)

# The uses of a row's key, `bits(key, use, ...)`. An objective of a user's own begins with OWN_DRAWS.
MASK_ORDER, MASK_FATE, MASK_WORD = 0, 1, 2
SPAN_NOISE, SPAN_TEXT = 1, 2  # no row is masked and corrupted
PREFIX_LENGTH = 3
MASK_LENGTH = 4
INFILL = 5
OWN_DRAWS = 16

_WORD = 0xFFFF_FFFF_FFFF_FFFF
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_FEISTEL_ROUNDS = 6  # even, so that the two sides end where they began


def bits(*keys: Keys) -> np.ndarray:
    """64 random bits (uint64, at least one-dimensional) for each place of the broadcast keys, all >= 0."""
    state = np.zeros(1, np.uint64)
    for key in keys:
        state = _mix(state + (np.asarray(key).astype(np.uint64) + np.uint64(_GOLDEN)))
    return state


def uniform(*keys: Keys) -> np.ndarray:
    """Float64 draws in [0, 1)."""
    return to_uniform(bits(*keys))


def to_uniform(bits_: np.ndarray) -> np.ndarray:
    """The upper 53 bits of each word as a float64 in [0, 1)."""
    return (bits_ >> np.uint64(11)) * 2.0**-53


def permute(index: np.ndarray, size: int, *keys: int) -> np.ndarray:
    """The places to which a random permutation of range(size), chosen by the keys, sends each index.

    It needs O(1) memory. A Feistel network permutes a rectangle that is hardly larger than size. Places
    beyond size walk on until they fall inside (Black and Rogaway 2002, "generalised Feistel" and "cycle
    walking").
    """
    assert size >= 1
    width = math.isqrt(size - 1) + 1
    height = -(-size // width)
    round_keys = bits(*keys, np.arange(_FEISTEL_ROUNDS))
    place = _feistel(np.atleast_1d(index).astype(np.uint64), width, height, round_keys)
    while (outside := place >= np.uint64(size)).any():
        place[outside] = _feistel(place[outside], width, height, round_keys)
    return place.astype(np.int64)


def make_draw(*keys: int) -> Callable[[], int]:
    """A function that returns 64 new bits a call; bits(*keys, n) is its n-th result."""
    key = int(bits(*keys)[0])
    counter = -1

    def draw() -> int:
        nonlocal counter
        counter += 1
        word = (key + counter + _GOLDEN) & _WORD
        word = ((word ^ (word >> 30)) * 0xBF58_476D_1CE4_E5B9) & _WORD
        word = ((word ^ (word >> 27)) * 0x94D0_49BB_1331_11EB) & _WORD
        return word ^ (word >> 31)

    return draw


def _feistel(place: np.ndarray, width: int, height: int, round_keys: np.ndarray) -> np.ndarray:
    sides = np.uint64(width), np.uint64(height)
    left, right = np.divmod(place, sides[1])
    for round_ in range(_FEISTEL_ROUNDS):
        shift = _mix(right + round_keys[round_])
        left, right = right, (left + shift % sides[round_ % 2]) % sides[round_ % 2]
    return left * sides[1] + right


def _mix(word: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014); products wrap around on purpose."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return word ^ (word >> np.uint64(31))
