"""A loss is a spike if it stands out from a window of losses before it, and only then."""

import json
import math

import pytest

from flaxmill.train.spikes import SpikeConfig, SpikeDetector

FALLING = [3.0 - 0.01 * step + 0.05 * math.sin(step) for step in range(40)]


def detector(losses=(), **settings):
    return SpikeDetector(SpikeConfig(**{"threshold": 5.0, "window": 20, **settings}), list(losses))


def test_a_loss_above_mean_and_threshold_deviations_is_a_spike():
    losses = [1.0, 3.0] * 10  # mean 2, standard deviation 1
    assert detector(losses).is_spike(7.001)
    assert not detector(losses).is_spike(6.999)
    assert not detector(losses).is_spike(-100.0)


def test_falling_losses_hold_no_spike():
    watched = detector()
    assert not any(map(watched.is_spike, FALLING))
    assert watched.losses == FALLING[-20:]


def test_a_spike_does_not_join_the_history():
    watched = detector(FALLING)
    before = watched.losses
    assert watched.is_spike(9.0)
    assert watched.losses == before
    assert watched.is_spike(9.0)


def test_no_loss_is_a_spike_until_half_the_window_is_full():
    watched = detector()
    assert not any(map(watched.is_spike, [1.0] * 9 + [50.0]))
    assert detector([1.0] * 10).is_spike(50.0)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_neither_a_spike_nor_history(loss):
    watched = detector(FALLING)
    before = watched.losses
    assert not watched.is_spike(loss)
    assert watched.losses == before


def test_the_noise_of_a_constant_loss_is_no_spike():
    assert not detector([2.0] * 20).is_spike(2.0 * (1 + 1e-6))
    assert detector([2.0] * 20).is_spike(2.1)


def test_without_a_threshold_nothing_is_watched_or_kept():
    watched = detector(threshold=None)
    assert not watched.is_spike(1e9)
    assert watched.losses == []


def test_a_detector_restarted_from_its_losses_decides_alike():
    losses = [*FALLING, 9.0, *FALLING, 2.9, 3.4, 9.0]
    straight = detector()
    decisions = [straight.is_spike(loss) for loss in losses]
    assert sum(decisions) >= 2
    for cut in range(len(losses)):
        first = detector()
        head = [first.is_spike(loss) for loss in losses[:cut]]
        second = detector(json.loads(json.dumps(first.losses)))  # as a checkpoint keeps them
        assert head + [second.is_spike(loss) for loss in losses[cut:]] == decisions
        assert second.losses == straight.losses


def test_losses_are_not_shared_with_whoever_reads_them():
    watched = detector(FALLING)
    watched.losses.clear()
    assert len(watched.losses) == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.0}, r"spike.threshold=0.0 must be above 0; use 5 or more"),
        ({"threshold": -1.0}, r"spike.threshold=-1.0 must"),
        ({"threshold": math.nan}, r"spike.threshold=nan must"),
        ({"threshold": math.inf}, r"spike.threshold=inf must"),
        ({"window": 1}, r"spike.window=1 must be in \[2, 1000\]"),
        ({"window": 1001}, r"spike.window=1001 must"),
        ({"max_rollbacks": -1}, r"spike.max_rollbacks=-1 must be 0 or more"),
    ],
)
def test_bad_values_are_named_with_the_rule(settings, message):
    with pytest.raises(ValueError, match=message):
        SpikeConfig(**settings)
