"""Hashes of runs of neighbouring numbers: of words in a text, and of tokens in a document.

A run's hash is a polynomial of its numbers modulo 2^64. The numbers must be random 64 bits themselves, as
`draws.bits` makes them.
"""

import numpy as np

_FACTOR = 0x9E37_79B9_7F4A_7C15  # odd, so that no factor of a power is lost


def hash_runs(values: np.ndarray, lengths: np.ndarray, run_length: int) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of all runs inside sequences that stand end to end, and the places where they begin.

    A sequence shorter than a run is one run. Values are uint64 [sum of lengths], lengths int [sequences].
    """
    ends = np.cumsum(lengths)
    is_run = np.arange(run_length, len(values) + run_length) <= np.repeat(ends, lengths)
    hashes = np.zeros(len(values), np.uint64)
    whole = hash_windows(values, run_length)
    hashes[: len(whole)] = whole
    for length in range(1, run_length):
        short = (ends - lengths)[lengths == length]
        hashes[short] = hash_at(values, short, length)
        is_run[short] = True
    return hashes[is_run], np.flatnonzero(is_run)


def hash_windows(values: np.ndarray, length: int) -> np.ndarray:
    """The hash of each window of `length` values: uint64 [values - length + 1], empty if there are fewer.

    Windows of twice the length are joined from two, so 13 values take five multiplications.
    """
    if len(values) < length:
        return np.zeros(0, np.uint64)
    hashes, num_hashed = values[:0], 0
    doubled, size = values, 1
    while True:
        if length & size:
            hashes = _join(doubled, size, hashes, num_hashed) if num_hashed else doubled
            num_hashed += size
        if num_hashed == length:
            return hashes
        doubled, size = _join(doubled, size, doubled, size), 2 * size


def hash_at(values: np.ndarray, places: np.ndarray, length: int) -> np.ndarray:
    """The hash of the `length` values from each place on."""
    hashes = values[places]
    for following in range(1, length):
        hashes = extend(hashes, values[places + following])
    return hashes


def extend(hashes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The hashes of runs with one value more."""
    return hashes * np.uint64(_FACTOR) + values


def _join(first: np.ndarray, size: int, second: np.ndarray, second_size: int) -> np.ndarray:
    """The hashes of windows that are one of `first`, of `size` values, and then one of `second`."""
    following = second[size:]
    joined = first[: len(following)] * np.uint64(pow(_FACTOR, second_size, 1 << 64))
    joined += following
    return joined
