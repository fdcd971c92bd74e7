"""Runs in a pipeline: resumed, moved to other meshes, in several processes, used on one device."""

import dataclasses
import os
from typing import Any

import pytest
from groups import Group
from launching import environment, run_to_end, step_rows, values_of, write_experiment
from small_runs import MESH_TOLERANCE, assert_resumes, in_directory

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


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_resumed_bit_for_bit_and_equals_that_of_one_device(
    kind, make_experiment, tmp_path, stop_after
):
    objective, model = KINDS[kind]
    experiment = make_experiment(objective, model, mesh=MeshConfig(data=2, stage=4), eval_every=4)
    straight = assert_resumes(experiment, tmp_path, stop_after)
    alone = train(in_directory(experiment, tmp_path / "alone", mesh=MeshConfig(data=1)))
    found, expected = values_of(straight.directory), values_of(alone.directory)
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=MESH_TOLERANCE)
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
    found, expected = values_of(tmp_path / "run"), values_of(tmp_path / "alone")
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=MESH_TOLERANCE)
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
    settings: dict[str, Any] = dict(steps=6, batch_size=8, eval_every=3, eval_batches=2)
    config = write_experiment(tmp_path / "job.py", "causal", corpus, checkpoint=dict(every=3), **settings)
    depth = ("--model.num-layers", "4")
    with Group(config, tmp_path / "shared", number, *mesh, *depth) as group:
        assert group.wait() == [0] * number, group.errors
    env = environment(tmp_path / "cache", XLA_FLAGS=os.environ["XLA_FLAGS"])
    alone = ("train", config, "--run-dir", tmp_path / "alone", *depth, "--log-digests")
    run_to_end(*alone, output=tmp_path / "alone.out", env=env)
    found, expected = step_rows(tmp_path / "shared"), step_rows(tmp_path / "alone")
    assert [row["step"] for row in found] == list(range(6))
    for one, other in zip(found, expected, strict=True):
        assert one["batch_digest"] == other["batch_digest"]
        assert one["loss"] == pytest.approx(other["loss"], rel=MESH_TOLERANCE)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=MESH_TOLERANCE)
