"""Histograms of lengths count every length in its bin."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flaxmill.data.prepared.lengths import LengthHistogram, bin_edges


@given(st.lists(st.integers(1, 2**30), min_size=1))
def test_every_length_is_counted_between_the_edges_of_its_bin(lengths):
    histogram = LengthHistogram()
    histogram.add(lengths)
    for number, count in enumerate(histogram.counts):
        least, most = bin_edges(number)
        assert count == sum(least <= length <= most for length in lengths)
    assert sum(histogram.counts) == len(lengths)


def test_bins_follow_one_another():
    edges = [bin_edges(number) for number in range(40)]
    assert edges[0] == (1, 1)
    assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(edges))


def test_counts_by_length_make_the_same_histogram():
    histogram = LengthHistogram()
    histogram.add([3, 3, 9])
    assert LengthHistogram.of_counts(np.bincount([3, 3, 9])).counts == histogram.counts
