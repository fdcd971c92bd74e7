"""Fine-tuning is training: it resumes bit for bit, runs on every mesh, and learns."""

import dataclasses

import pytest
from launching import assert_same_end, values_of
from parameters import swept
from small_tasks import task_data, task_experiment

from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.best import BestConfig
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig
from flaxmill.train.loop import train
from flaxmill.train.metrics.metrics_file import read_metrics

pytestmark = pytest.mark.slow

# Sums in another order: float32 rounds by 1.2e-7 a step, and eight steps of Adam enlarge it.
MESH_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """{task: (data, directory of an uninterrupted run)}, each made when first asked for."""
    made = {}

    def make(name):
        if name not in made:
            directory = tmp_path_factory.mktemp(name)
            data = task_data(name, directory)
            made[name] = data, train(task_experiment(name, data, directory / "straight")).directory
        return made[name]

    return make


@pytest.mark.parametrize(
    "name", ["tagging", "translation", "prompts", *swept("multi_label", "regression", "answers")]
)
def test_a_run_that_stops_on_the_way_ends_as_one_that_does_not(name, straight, tmp_path, stop_after):
    data, directory = straight(name)
    experiment = task_experiment(name, data, tmp_path / "stopped")
    assert train(experiment, stop=stop_after(3)).preempted
    assert train(experiment).step == 8
    assert_same_end(tmp_path / "stopped", directory, 8)


@pytest.mark.parametrize("name", ["answers", "translation", *swept("multi_label", "pairs")])
def test_losses_are_those_of_one_device_on_any_mesh(name, straight, tmp_path):
    data, directory = straight(name)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    train(task_experiment(name, data, tmp_path / "mesh", mesh=mesh))
    found, expected = values_of(tmp_path / "mesh"), values_of(directory)
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=MESH_TOLERANCE)


@pytest.mark.parametrize("name", ["answers", "translation", *swept("multi_label")])
def test_microbatches_change_nothing(name, straight, tmp_path):
    data, _ = straight(name)
    no_dropout = {"model": {"dropout": 0.0}}
    for accumulate, run in ((1, "whole"), (4, "parts")):
        train(task_experiment(name, data, tmp_path / run, accumulate=accumulate, **no_dropout))
    found, expected = values_of(tmp_path / "parts"), values_of(tmp_path / "whole")
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=MESH_TOLERANCE)


def test_a_run_ends_early_keeps_its_best_checkpoint_and_stays_ended(tmp_path):
    best = BestConfig(metric="eval_loss", patience=2)
    # Without learning no evaluation is better than the first.
    experiment = task_experiment(
        "classification",
        task_data("classification", tmp_path),
        tmp_path / "run",
        steps=40,
        eval_every=2,
        best=best,
    )
    still = dataclasses.replace(experiment.optimizer, learning_rate=1e-12)
    experiment = dataclasses.replace(
        experiment, optimizer=still, checkpoint=CheckpointConfig(every=100, keep_last=1)
    )
    result = train(experiment)
    first = min(2, result.step)
    assert result.step < 40
    steps = {int(path.name) for path in (result.directory / "checkpoints").iterdir()}
    assert len(steps) == 2
    assert min(steps) >= first
    evaluated = [
        row["step"] for row in read_metrics(result.directory / "metrics.jsonl") if "eval_loss" in row
    ]
    assert evaluated == sorted(set(evaluated))  # the last evaluation too was made once
    rows = len((result.directory / "metrics.jsonl").read_text().splitlines())
    again = train(experiment)
    assert (again.step, again.metrics) == (result.step, result.metrics)
    added = (result.directory / "metrics.jsonl").read_text().splitlines()[rows:]
    assert all('"eval_loss"' in row for row in added)
