"""The advice of an error is followed, and helps."""

import json
import sys

import pytest


@pytest.mark.slow
def test_a_run_goes_on_without_its_tracker_by_the_errors_own_advice(fresh, monkeypatch):
    """The run was made where tensorboardX is installed, and continues where it is not."""
    assert fresh.train("--trackers", "tensorboard", "--steps", 2).code == 0
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    resumed = ("train", "--run-dir", fresh.directory, "--steps", "3", "--extend")
    code, out, err = fresh.flaxmill(*resumed)
    assert (code, out) == (2, "")
    advice = err.strip().partition("or go on without it: ")[2]
    assert advice == "--trackers None"
    code, out, err = fresh.flaxmill(*resumed, *advice.split())
    assert code == 0, err
    assert fresh.rows() == [0, 1, 2]
    assert json.loads((fresh.directory / "config.json").read_text())["trackers"] == []
