"""Thinned curves keep their spikes, their ends and their means."""

import numpy as np
import pytest

from flaxmill.train.report.thinning import thin


def noisy(num_points):
    return np.arange(num_points) * 10, np.random.default_rng(0).normal(size=num_points)


def test_a_short_curve_is_kept_whole():
    steps, values = noisy(50)
    thinned = thin(steps, values, 50)
    assert thinned.steps is steps
    assert thinned.values is values
    assert thinned.means is None


@pytest.mark.parametrize("num_points", [51, 99, 1000, 12_345])
@pytest.mark.parametrize("max_points", [4, 50, 51])
def test_a_long_curve_has_at_most_so_many_points_and_its_ends(num_points, max_points):
    steps, values = noisy(num_points)
    thinned = thin(steps, values, max_points)
    assert len(thinned.steps) <= max_points
    assert (np.diff(thinned.steps) > 0).all()
    assert (thinned.steps[0], thinned.steps[-1]) == (steps[0], steps[-1])
    assert set(zip(thinned.steps, thinned.values, strict=True)) <= set(zip(steps, values, strict=True))


@pytest.mark.parametrize("place", [0, 1, 4_999, 9_998, 9_999])
@pytest.mark.parametrize("spike", [40.0, -40.0])
def test_a_spike_of_one_point_stays_where_it_was(place, spike):
    steps, values = noisy(10_000)
    values[place] = spike
    thinned = thin(steps, values, 100)
    assert thinned.values[thinned.steps == steps[place]].tolist() == [spike]


def test_means_are_those_of_equal_parts():
    thinned = thin(np.arange(1000), np.arange(1000.0), 22)
    assert thinned.means is not None
    assert thinned.mean_steps is not None
    assert thinned.means.tolist() == [49.5 + 100 * part for part in range(10)]
    assert thinned.mean_steps.tolist() == [49 + 100 * part for part in range(10)]


def test_what_is_not_finite_counts_in_no_mean_and_a_part_without_numbers_is_a_gap():
    values = np.ones(1000)
    values[100:200] = np.nan
    values[250] = np.nan
    thinned = thin(np.arange(1000), values, 22)
    assert thinned.means is not None
    assert np.isnan(thinned.means).tolist() == [False, True] + [False] * 8
    assert np.isnan(thinned.values[thinned.steps == 100]).all()
    assert thinned.means[2] == 1.0


def test_numbers_near_the_greatest_of_all_do_not_warn():
    thinned = thin(np.arange(100), np.full(100, 1.7e308), 10)
    assert thinned.means is not None
    assert np.isnan(thinned.means).all()
    assert (thinned.values == 1.7e308).all()
