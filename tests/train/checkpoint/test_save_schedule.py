"""Saves come due by steps and by the clock."""

import pytest

from flaxmill.train.checkpoint import save_schedule
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig
from flaxmill.train.checkpoint.save_schedule import SaveSchedule


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [1000.0]
    monkeypatch.setattr(save_schedule.time, "monotonic", lambda: now[0])
    return now


def test_every_nth_step_is_due(clock):
    schedule = SaveSchedule(CheckpointConfig(every=4), None)
    assert [step for step in range(1, 13) if schedule.is_due(step, asked=False)] == [4, 8, 12]


def test_the_clock_asks_when_its_minutes_have_passed_since_the_last_save_began(clock):
    schedule = SaveSchedule(CheckpointConfig(every_minutes=0.5), None)
    assert not schedule.is_overdue()
    clock[0] += 30
    assert schedule.is_overdue()
    assert schedule.is_due(17, asked=True)
    schedule.saved(17)
    assert not schedule.is_overdue()


def test_without_minutes_the_clock_never_asks(clock):
    schedule = SaveSchedule(CheckpointConfig(), None)
    clock[0] += 1e9
    assert not schedule.is_overdue()


def test_a_wish_that_was_on_its_way_when_the_save_began_causes_no_second_save(clock):
    schedule = SaveSchedule(CheckpointConfig(every=100, every_minutes=1), None)
    schedule.saved(20)
    assert not schedule.is_due(21, asked=True)
    assert not schedule.is_due(22, asked=True)
    assert schedule.is_due(23, asked=True)


def test_the_restored_step_stands_in_a_checkpoint(clock):
    assert SaveSchedule(CheckpointConfig(), 40).last_step == 40
