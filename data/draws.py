"""Counter-based random draws: a draw is a hash of the keys that name it, so no generator state is kept.

NumPy's and Python's distributions may change between versions; these integers never do.
"""

from collections.abc import Callable

import numpy as np

Keys = int | np.ndarray

# Each use of randomness has its own first key, so that equal seeds never share draws.
HELD_OUT, TOKENIZER_SAMPLE, PAIR_PLAN, ROW_ORDER, MASKED_PLACES = range(1, 6)

_WORD = 0xFFFF_FFFF_FFFF_FFFF
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_FEISTEL_ROUNDS = 6


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
    """Where a random permutation of range(size), chosen by the keys, sends each index; O(1) memory.

    A balanced Feistel network permutes the next power of four; places beyond `size` walk on until they
    fall inside (cycle walking, Black and Rogaway 2002), which keeps it a permutation.
    """
    assert size >= 1
    half = np.uint64((max(size - 1, 1).bit_length() + 1) // 2)
    key = int(bits(*keys)[0])
    place = np.asarray(index, np.uint64)
    place = _feistel(place, half, key)
    while (outside := place >= np.uint64(size)).any():
        place = np.where(outside, _feistel(place, half, key), place)
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


def _feistel(place: np.ndarray, half: np.uint64, key: int) -> np.ndarray:
    low = np.uint64((1 << int(half)) - 1)
    left, right = place >> half, place & low
    for round_ in range(_FEISTEL_ROUNDS):
        left, right = right, left ^ (bits(key, round_, right) & low)
    return (left << half) | right


def _mix(word: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014); products wrap around on purpose."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return word ^ (word >> np.uint64(31))
