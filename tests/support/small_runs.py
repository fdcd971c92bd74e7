"""What every small experiment must show: it resumes bit for bit, and has the same losses on any mesh."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from groups import Group
from launching import (
    assert_same_end,
    quick_environment,
    run_to_end,
    step_rows,
    values_of,
    write_experiment,
)

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
    assert_same_values(directory / "mesh", directory / "one")


def assert_same_values(run: Path, other: Path) -> None:
    """Every value of every step is within MESH_TOLERANCE of that of the other run."""
    found, expected = values_of(run), values_of(other)
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=MESH_TOLERANCE)


def assert_processes_make_the_run_of_one(
    directory: Path,
    corpus: Path,
    number: int,
    mesh: tuple[Any, ...],
    flags: tuple[Any, ...],
    names: tuple[str, ...] = ("loss", "grad_norm"),
) -> None:
    """A job of processes with two devices each takes the six steps that one device takes.

    Args:
      flags: of both runs.
      names: the metrics that are compared.
    """
    settings: dict[str, Any] = dict(steps=6, batch_size=8, eval_every=3, eval_batches=2)
    config = write_experiment(directory / "job.py", "causal", corpus, checkpoint=dict(every=3), **settings)
    with Group(config, directory / "shared", number, *mesh, *flags) as group:
        assert group.wait() == [0] * number, group.errors
    env = quick_environment(directory / "cache")
    alone = ("train", config, "--run-dir", directory / "alone", *flags, "--log-digests")
    run_to_end(*alone, output=directory / "alone.out", env=env)
    found, expected = step_rows(directory / "shared"), step_rows(directory / "alone")
    assert [row["step"] for row in found] == list(range(6))
    for one, other in zip(found, expected, strict=True):
        assert one["batch_digest"] == other["batch_digest"]
        for name in names:
            assert one[name] == pytest.approx(other[name], rel=MESH_TOLERANCE)
