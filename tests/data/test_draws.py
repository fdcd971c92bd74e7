"""Draws are hashes: equal keys give equal numbers, on every version and in any order."""

import numpy as np
import pytest

from flaxmill.data import draws


def test_bits_are_the_same_on_every_machine_and_version():
    # splitmix64 seeded with 0 begins with this number (Steele, Lea and Flood's reference code).
    assert draws.bits(0)[0] == 0xE220A8397B1DCDAF


def test_a_sequence_of_draws_equals_hashing_its_counter():
    draw = draws.make_draw(3, 7)
    assert [draw() for _ in range(5)] == draws.bits(3, 7, np.arange(5)).tolist()


def test_keys_are_not_interchangeable():
    assert draws.bits(1, 2)[0] != draws.bits(2, 1)[0]
    assert draws.bits(1)[0] != draws.bits(1, 0)[0]


def test_uniform_draws_fill_the_unit_interval_evenly():
    values = draws.uniform(5, np.arange(100_000))
    counts, _ = np.histogram(values, bins=10, range=(0.0, 1.0))
    assert counts.sum() == 100_000
    # The standard deviation of a bin is 95; 500 is five of them.
    assert np.abs(counts - 10_000).max() < 500


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 65, 1000, 4097])
def test_permute_is_a_permutation_of_every_size(size):
    places = draws.permute(np.arange(size), size, 11, 2)
    assert sorted(places.tolist()) == list(range(size))


def test_permutations_of_other_keys_differ():
    orders = {tuple(draws.permute(np.arange(100), 100, 0, epoch).tolist()) for epoch in range(20)}
    assert len(orders) == 20


def test_permute_leaves_no_pattern_of_neighbours():
    places = draws.permute(np.arange(10_000), 10_000, 1)
    correlation = np.corrcoef(places[:-1], places[1:])[0, 1]
    assert abs(correlation) < 0.05  # five standard deviations of independent order
