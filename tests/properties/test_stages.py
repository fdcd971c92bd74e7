"""Runs in a pipeline: resumed, moved to other meshes, in several processes, used on one device."""

import dataclasses
from typing import Any

import pytest
from parameters import swept
from small_runs import (
    MESH_TOLERANCE,
    assert_processes_make_the_run_of_one,
    assert_resumes,
    assert_same_values,
    in_directory,
)

from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.checkpoint.config import CheckpointConfig
from flaxmill.train.loop import train

pytestmark = pytest.mark.slow

DEEP = {"num_layers": 4, "attention_dropout": 0.0}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "causal": ("causal", DEEP),
    "mlm_nsp": ("mlm_nsp", DEEP),
    "experts": ("causal", DEEP | dict(num_experts=4, moe_every=2, num_layers=8, load_balance_loss=0.01)),
}


@pytest.mark.parametrize("kind", ["mlm_nsp", *swept("causal", "experts")])
def test_a_run_is_resumed_bit_for_bit_and_equals_that_of_one_device(
    kind, make_experiment, tmp_path, stop_after
):
    objective, model = KINDS[kind]
    experiment = make_experiment(objective, model, mesh=MeshConfig(data=2, stage=4), eval_every=4)
    straight = assert_resumes(experiment, tmp_path, stop_after)
    alone = train(in_directory(experiment, tmp_path / "alone", mesh=MeshConfig(data=1)))
    assert_same_values(straight.directory, alone.directory)
    assert straight.metrics["eval_loss"] == pytest.approx(alone.metrics["eval_loss"], rel=MESH_TOLERANCE)


def test_a_run_moves_between_meshes_and_schedules_and_is_used_on_one_device(
    make_experiment, tmp_path, stop_after, flaxmill
):
    every = CheckpointConfig(every=2)
    experiment = make_experiment("causal", DEEP, checkpoint=every, run_dir=str(tmp_path / "run"))
    for mesh, rounds, stop in (
        (MeshConfig(data=2, stage=4), 1, stop_after(3)),
        (MeshConfig(data=1, fsdp=2, context=4), 1, stop_after(3)),
        (MeshConfig(data=1, stage=2, fsdp=4), 2, None),
    ):
        train(dataclasses.replace(experiment, mesh=mesh, pipeline_rounds=rounds), stop=stop)
    train(in_directory(experiment, tmp_path / "alone"))
    assert_same_values(tmp_path / "run", tmp_path / "alone")
    for command in (
        ("eval", tmp_path / "run", "--mesh.data", 1, "--mesh.stage", 1, "--mesh.fsdp", 1, "--json"),
        ("generate", tmp_path / "run", "The", "--max-new-tokens", 4, "--json"),
        ("export", tmp_path / "run", tmp_path / "exported"),
    ):
        code, _, err = flaxmill(*command)
        assert code == 0, err
    assert (tmp_path / "exported" / "model.safetensors").is_file()


def test_a_run_says_how_long_its_stages_wait(make_experiment, capsys):
    train(make_experiment("causal", DEEP, steps=1, mesh=MeshConfig(data=1, stage=4), batch_size=8))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("pipeline")]
    assert line == "pipeline of 4 stages, 8 microbatches: each stage waits 27% of its time"


@pytest.mark.parametrize(
    ("number", "mesh"),
    [
        (2, ("--mesh.data", 1, "--mesh.stage", 4)),
        (4, ("--mesh.data", 1, "--mesh.fsdp", 2, "--mesh.stage", 4)),
    ],
    ids=["2 processes of two stages", "4 processes, each a stage"],
)
def test_processes_that_are_stages_make_the_run_of_one(number, mesh, corpus, tmp_path):
    flags = ("--model.num-layers", "4")
    assert_processes_make_the_run_of_one(tmp_path, corpus, number, mesh, flags)
