"""A run on preferences resumes bit for bit, on any mesh and in microbatches, and learns what was chosen."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import small_llama
from launching import step_rows
from small_runs import MESH_TOLERANCE, assert_resumes, in_directory

from flaxmill.data.config import DataConfig
from flaxmill.model import ModelConfig
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.checkpoint.config import CheckpointConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.failures import RunError
from flaxmill.train.inference.other_data import OtherData
from flaxmill.train.inference.reference import REFERENCE_FILE
from flaxmill.train.inference.run_evaluation import evaluate_run
from flaxmill.train.loop import train
from flaxmill.train.optimizer.config import OptimizerConfig
from flaxmill.train.run.directory import CHECKPOINTS

pytestmark = pytest.mark.slow

WORDS = ["red", "green", "blue", "small", "large"]


def write_pairs(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """An answer in small letters is chosen over the same in capitals."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Say {WORDS[n % 5]}."}],
            "chosen": [{"role": "assistant", "content": WORDS[n % 5]}],
            "rejected": [{"role": "assistant", "content": WORDS[n % 5].upper()}],
        }
        for n in range(100)
    ]
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)


@pytest.fixture
def experiment(pairs, make_experiment):
    data = DataConfig(files=(str(pairs),), vocab_size=280, sequence_length=96)
    return make_experiment("dpo", data=data, checkpoint=CheckpointConfig(every=4))


def test_a_run_that_stops_on_the_way_ends_as_one_that_does_not(experiment, tmp_path, stop_after):
    straight = assert_resumes(experiment, tmp_path, stop_after)
    assert straight.metrics.keys() >= {"eval_loss", "eval_rewards/margins", "eval_rewards/accuracies"}
    kept = (tmp_path / "stopped" / REFERENCE_FILE).read_bytes()
    assert kept == (straight.directory / REFERENCE_FILE).read_bytes()


def test_losses_are_those_of_one_device_on_any_mesh_and_in_microbatches(experiment, tmp_path):
    experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, dropout=0.0))
    one = step_rows(train(in_directory(experiment, tmp_path / "one")).directory)
    meshes = {"mesh": MeshConfig(data=2, fsdp=2, tensor=2), "context": MeshConfig(data=2, context=2)}
    changes = {name: {"mesh": mesh} for name, mesh in meshes.items()} | {"parts": {"accumulate": 4}}
    for name, change in changes.items():
        rows = step_rows(train(in_directory(experiment, tmp_path / name, **change)).directory)
        for found, expected in zip(rows, one, strict=True):
            for key in ("loss", "grad_norm", "logps/chosen", "logps/rejected"):
                assert found[key] == pytest.approx(expected[key], rel=MESH_TOLERANCE)
            # A reward is a small difference of log-probabilities near -10, times 0.1.
            for key in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
                assert found[key] == pytest.approx(expected[key], abs=0.1 * 10 * MESH_TOLERANCE)


def test_the_loss_falls_from_log_2_and_margins_rise(experiment, tmp_path):
    experiment = dataclasses.replace(
        experiment,
        steps=60,
        model=dataclasses.replace(experiment.model, dropout=0.0),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        eval_batches=None,
    )
    result = train(in_directory(experiment, tmp_path / "run"))
    rows = step_rows(result.directory)
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert rows[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    margins = [np.mean([row["rewards/margins"] for row in rows[start : start + 20]]) for start in (0, 20, 40)]
    assert margins == sorted(margins)
    assert rows[-1]["loss"] < 0.2
    assert rows[-1]["rewards/accuracies"] == 1
    measured = evaluate_run(result.directory)
    assert measured["eval_loss"] == pytest.approx(result.metrics["eval_loss"], rel=1e-5)
    assert measured["rewards/accuracies"] > 0.8
    predicted = [json.loads(line) for line in Path(measured["predictions"]).read_text().splitlines()]
    assert {row["prediction"] for row in predicted} <= {"chosen", "rejected"}
    assert predicted[0].keys() >= {"prompt", "rewards/chosen", "rewards/rejected"}


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_imported_weights_are_the_reference_with_lora_or_without(lora_rank, tmp_path):
    rows = [{"prompt": "a grey", "chosen": " cat", "rejected": f" day{n}"} for n in range(40)]
    path = write_pairs(tmp_path / "pairs.jsonl", rows)
    experiment = Experiment(
        objective="dpo",
        data=DataConfig(files=(str(path),), sequence_length=64),
        model=ModelConfig(lora_rank=lora_rank),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        init_from=str(small_llama.directory()),
        steps=12,
        log_every=1,
        checkpoint=CheckpointConfig(every=4, keep_every=4),
    )
    result = train(in_directory(experiment, tmp_path / "run"))
    losses = [row["loss"] for row in step_rows(result.directory)]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-6)
    assert losses[-1] < losses[0]
    other = evaluate_run(result.directory, OtherData(str(path), {}))
    assert other["num_examples"] == 40
    assert other["rewards/margins"] > 0


def test_a_run_that_begins_again_keeps_what_it_has_computed(experiment, tmp_path, stop_after, capsys):
    run = tmp_path / "run"
    assert train(in_directory(experiment, run), stop=stop_after(1)).preempted
    first = step_rows(run)
    shutil.rmtree(run / CHECKPOINTS)
    assert "computing how likely" in capsys.readouterr().out
    assert train(in_directory(experiment, run), stop=stop_after(1)).preempted
    assert "computing how likely" not in capsys.readouterr().out
    assert step_rows(run)[-1]["loss"] == first[0]["loss"]


def test_a_lost_reference_is_computed_again_or_ends_the_run(experiment, tmp_path, stop_after):
    run = tmp_path / "run"
    assert train(in_directory(experiment, run), stop=stop_after(3)).preempted
    file = run / REFERENCE_FILE
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(
        RunError, match=r"reference.safetensors is damaged, and the weights before .* are gone"
    ):
        train(in_directory(experiment, run))
    file.unlink()
    with pytest.raises(
        RunError, match=r"reference.safetensors is missing, .* restore the file, or start a new"
    ):
        train(in_directory(experiment, run))
