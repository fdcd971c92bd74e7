"""What every small experiment must show: it resumes bit for bit, and has the same losses on any mesh."""

import dataclasses
from pathlib import Path

import pytest
from launching import assert_same_end, values_of

from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.loop import TrainResult, train

# Sums have another order: float32 rounds by 1.2e-7 a step, and eight steps of Adam enlarge that.
MESH_TOLERANCE = 1e-5


def in_directory(experiment: Experiment, directory: Path, **changes) -> Experiment:
    """The experiment with another run directory, and other changes."""
    return dataclasses.replace(experiment, run_dir=str(directory), **changes)


def assert_resumes(experiment: Experiment, directory: Path, stop_after) -> TrainResult:
    """A run of eight steps that is stopped after three ends as one that is not, which is returned."""
    straight = train(in_directory(experiment, directory / "straight"))
    assert train(in_directory(experiment, directory / "stopped"), stop=stop_after(3)).preempted
    assert train(in_directory(experiment, directory / "stopped")).step == 8
    assert_same_end(directory / "stopped", straight.directory, 8)
    return straight


def assert_same_on_a_mesh(experiment: Experiment, directory: Path) -> None:
    """Every value of every step is within MESH_TOLERANCE on eight devices."""
    train(in_directory(experiment, directory / "one"))
    train(in_directory(experiment, directory / "mesh", mesh=MeshConfig(data=2, fsdp=2, tensor=2)))
    found, expected = values_of(directory / "mesh"), values_of(directory / "one")
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=MESH_TOLERANCE)
