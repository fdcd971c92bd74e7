"""Rows of sources come in exact shares, as a pure function of the row's number."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxmill.data.mixture.schedule import Change, Schedule, to_slots, weigh_by_size

SHARES = st.lists(st.integers(1, 60), min_size=1, max_size=9)


@given(SHARES)
@settings(max_examples=80, deadline=None)
def test_every_prefix_has_each_source_within_one_row_of_its_share(weights):
    """Less than one row, in exact arithmetic."""
    rows = np.arange(3 * sum(weights) + 7)
    found = Schedule([Change(0, tuple(weights))], [None] * len(weights)).locate(rows)
    counts = np.cumsum(found.sources[:, None] == np.arange(len(weights)), axis=0)
    due = (rows[:, None] + 1) * np.array([Fraction(weight, sum(weights)) for weight in weights], object)
    assert (abs(counts - due) < 1).all()


@given(SHARES, st.lists(st.one_of(st.none(), st.integers(1, 50)), min_size=9, max_size=9), st.data())
@settings(max_examples=80, deadline=None)
def test_each_source_gives_its_rows_in_order_and_none_beyond_its_limit(weights, limits, data):
    limits = limits[: len(weights)]
    changes = [Change(0, tuple(weights))]
    if data.draw(st.booleans()):
        later = data.draw(st.lists(st.integers(0, 9), min_size=len(weights), max_size=len(weights)))
        changes.append(Change(data.draw(st.integers(1, 200)), tuple(later)))
    schedule = Schedule(changes, limits)
    end = 400 if schedule.num_rows is None else min(400, schedule.num_rows)
    found = schedule.locate(np.arange(end))
    for source, limit in enumerate(limits):
        numbers = found.numbers[found.sources == source]
        assert numbers.tolist() == list(range(len(numbers)))
        assert limit is None or len(numbers) <= limit
        assert schedule.count(end)[source] == len(numbers)
    # Rows that are asked for alone, or from the middle, are the same.
    assert all(
        (a == b[end // 2 :]).all()
        for a, b in zip(schedule.locate(np.arange(end // 2, end)), found, strict=True)
    )


def test_a_source_that_is_used_up_leaves_its_share_to_the_others():
    schedule = Schedule([Change(0, (1, 1, 2))], [3, None, None])
    found = schedule.locate(np.arange(1200))
    assert (found.sources == 0).sum() == 3
    after = found.sources[np.flatnonzero(found.sources == 0)[-1] + 1 :]
    assert abs((after == 1).mean() - 1 / 3) < 0.002


def test_rows_beyond_the_last_source_are_refused():
    schedule = Schedule([Change(0, (1, 1))], [3, 5])
    assert schedule.num_rows == 8
    with pytest.raises(
        ValueError, match="the sources of the mixture are read up after 8 rows; allow more epochs"
    ):
        schedule.locate(np.arange(9))


def test_a_change_of_weights_holds_from_its_row_on():
    schedule = Schedule([Change(0, (1, 0)), Change(100, (1, 3))], [None, None])
    found = schedule.locate(np.arange(500))
    assert not found.sources[:100].any()
    assert (found.sources[100:] == 1).sum() == 300
    assert found.numbers[100:][found.sources[100:] == 0][0] == 100


def test_a_row_far_on_is_found_at_once():
    rows = np.array([10**15])
    found = Schedule([Change(0, (0.7, 0.2, 0.1))], [None] * 3).locate(rows)
    assert found.numbers[0] == pytest.approx(10**15 * [0.7, 0.2, 0.1][found.sources[0]], rel=1e-12)


@pytest.mark.parametrize(
    ("weights", "slots"),
    [((0.7, 0.2, 0.1), (7, 2, 1)), ((3, 1), (3, 1)), ((5,), (1,)), ((0.5, 0.0, 0.5), (1, 0, 1))],
)
def test_weights_are_read_as_decimals(weights, slots):
    assert to_slots(weights) == slots


def test_shares_that_are_no_short_fractions_are_rounded_but_never_to_nothing():
    slots = to_slots((1.0, 2**0.5, 1e-9))
    assert min(slots) > 0
    assert slots[1] / slots[0] == pytest.approx(2**0.5, rel=1e-3)


def test_a_temperature_of_one_mixes_by_size_and_a_high_one_by_weight_alone():
    weights, sizes = {"a": 1.0, "b": 1.0}, {"a": 100, "b": 400}
    by_size = weigh_by_size(weights, sizes, 1)
    assert by_size["b"] / by_size["a"] == 4
    flat = weigh_by_size(weights, sizes, 2)
    assert flat["b"] / flat["a"] == pytest.approx(2)
    assert weigh_by_size(weights, sizes, 1e9)["a"] == pytest.approx(1)
