"""Runs whose devices hold different experts: resumed, moved, in several processes, used on one device."""

import dataclasses
import json
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

MODEL: dict[str, Any] = dict(num_experts=4, shared_experts=1, load_balance_loss=0.01, router_z_loss=0.001)
KINDS = {
    "all tokens": ("causal", {"dropout": 0.1}),
    "capacity": ("causal", {"expert_capacity": 1.0}),
    "mlm_nsp": ("mlm_nsp", {}),
}
MIXTRAL: dict[str, Any] = dict(
    num_experts=4, load_balance_loss=0.01, positions="rotary", norm="rmsnorm", gated_mlp=True,
    activation="silu", use_bias=False, tie_embeddings=False, dropout=0.0,
)  # fmt: skip
SPLIT = MeshConfig(data=1, fsdp=2, expert=4)


@pytest.mark.parametrize("kind", ["all tokens", *swept("capacity", "mlm_nsp")])
def test_a_run_is_resumed_bit_for_bit_and_equals_that_of_one_device(
    kind, make_experiment, tmp_path, stop_after
):
    objective, model = KINDS[kind]
    experiment = make_experiment(objective, MODEL | model, mesh=SPLIT, eval_every=4)
    straight = assert_resumes(experiment, tmp_path, stop_after)
    alone = train(in_directory(experiment, tmp_path / "alone", mesh=MeshConfig(data=1)))
    assert_same_values(straight.directory, alone.directory)
    for name in ("eval_loss", "eval_load_balance_loss", "eval_expert_load"):
        assert straight.metrics[name] == pytest.approx(alone.metrics[name], rel=MESH_TOLERANCE)


def test_a_run_moves_between_meshes_and_is_used_on_one_device(
    make_experiment, tmp_path, stop_after, flaxmill
):
    every = CheckpointConfig(every=2)
    experiment = make_experiment("causal", MIXTRAL, checkpoint=every, run_dir=str(tmp_path / "run"))
    for mesh, stop in (
        (MeshConfig(data=2, expert=4), stop_after(2)),
        (MeshConfig(data=1, fsdp=2, context=2), stop_after(2)),
        (MeshConfig(data=1), stop_after(2)),
        (MeshConfig(data=1, expert=2, tensor=2), None),
    ):
        train(dataclasses.replace(experiment, mesh=mesh), stop=stop)
    train(in_directory(experiment, tmp_path / "alone", mesh=MeshConfig(data=1)))
    assert_same_values(tmp_path / "run", tmp_path / "alone")
    for command in (
        ("eval", tmp_path / "run", "--mesh.data", 1, "--json"),
        ("export", tmp_path / "run", tmp_path / "exported"),
    ):
        code, _, err = flaxmill(*command)
        assert code == 0, err
    assert (tmp_path / "exported" / "model.safetensors").is_file()


def test_evaluation_and_text_are_the_same_on_devices_with_different_experts(
    make_experiment, tmp_path, flaxmill
):
    run = tmp_path / "run"
    train(make_experiment("causal", MODEL, mesh=SPLIT, run_dir=str(run)))
    losses, texts = [], []
    for mesh in (
        ("--mesh.data", 1),
        ("--mesh.data", 1, "--mesh.expert", 4),
        ("--mesh.data", 2, "--mesh.expert", 2),
    ):
        code, out, err = flaxmill("eval", run, *mesh, "--json")
        assert code == 0, err
        losses.append(json.loads(out)["eval_loss"])
        code, out, err = flaxmill("generate", run, "The", *mesh, "--max-new-tokens", 6, "--json")
        assert code == 0, err
        texts.append(json.loads(out))
    assert losses == pytest.approx([losses[0]] * 3, rel=MESH_TOLERANCE)
    assert texts == [texts[0]] * 3


@pytest.mark.parametrize(
    ("number", "mesh"),
    [
        (2, ("--mesh.data", 1, "--mesh.expert", 4)),
        (4, ("--mesh.data", 1, "--mesh.fsdp", 2, "--mesh.expert", 4)),
    ],
    ids=["2 processes share experts", "4 processes, pairs share experts"],
)
def test_processes_with_different_experts_make_the_run_of_one(number, mesh, corpus, tmp_path):
    names = ("loss", "grad_norm", "load_balance_loss", "expert_load")
    flags = ("--model.num-experts", 4, "--model.load-balance-loss", 0.01)
    assert_processes_make_the_run_of_one(tmp_path, corpus, number, mesh, flags, names)
