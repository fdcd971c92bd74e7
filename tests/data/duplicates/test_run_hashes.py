"""Runs have equal hashes where they are equal, and no others do."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flaxmill.data.draws import bits
from flaxmill.data.duplicates.run_hashes import extend, hash_at, hash_runs, hash_windows

sequences = st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=6)


def values_of(numbers):
    return bits(np.array(numbers, np.int64)) if len(numbers) else np.zeros(0, np.uint64)


@given(sequences, st.integers(1, 6))
def test_two_runs_have_equal_hashes_if_and_only_if_they_are_equal(lists, length):
    flat = [number for one in lists for number in one]
    hashes, places = hash_runs(values_of(flat), np.array([len(one) for one in lists], np.int64), length)
    runs = []
    for one in lists:
        runs += [tuple(one[at : at + length]) for at in range(max(1, len(one) - length + 1)) if one]
    assert len(hashes) == len(runs)
    assert all(tuple(flat[at : at + len(run)]) == run for at, run in zip(places, runs, strict=True))
    assert len(set(zip(hashes.tolist(), runs, strict=True))) == len(set(runs)) == len(set(hashes.tolist()))


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 20))
def test_joined_windows_are_those_made_one_value_at_a_time(numbers, length):
    values = values_of(numbers)
    windows = hash_windows(values, length)
    places = np.arange(len(windows))
    assert len(windows) == max(0, len(numbers) - length + 1)
    assert (windows == hash_at(values, places, length)).all()
    if len(windows) > 1:
        longer = extend(windows[:-1], values[places[:-1] + length])
        assert (longer == hash_windows(values, length + 1)).all()
