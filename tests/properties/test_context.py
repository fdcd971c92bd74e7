"""Runs whose devices share rows: resumed, moved to other meshes, in several processes, used on one device."""

import dataclasses

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

SHARED = MeshConfig(data=1, fsdp=2, context=4)
KINDS = {  # zigzag order, and tokens in their own order
    "causal": ("causal", {"dropout": 0.0}),
    "causal with dropout": ("causal", {"attention_dropout": 0.0}),
    "mlm_nsp": ("mlm_nsp", {"attention_dropout": 0.0}),
}


@pytest.mark.parametrize("kind", ["causal", *swept("causal with dropout", "mlm_nsp")])
def test_a_run_is_resumed_bit_for_bit_and_equals_that_of_one_device(
    kind, make_experiment, tmp_path, stop_after
):
    objective, model = KINDS[kind]
    experiment = make_experiment(objective, model, mesh=SHARED, eval_every=4)
    straight = assert_resumes(experiment, tmp_path, stop_after)
    alone = train(in_directory(experiment, tmp_path / "alone", mesh=MeshConfig(data=1)))
    assert_same_values(straight.directory, alone.directory)
    assert straight.metrics["eval_loss"] == pytest.approx(alone.metrics["eval_loss"], rel=MESH_TOLERANCE)


def test_a_run_moves_between_meshes_and_is_used_on_one_device(
    make_experiment, tmp_path, stop_after, flaxmill
):
    every = CheckpointConfig(every=2)
    experiment = make_experiment("causal", {"dropout": 0.0}, checkpoint=every, run_dir=str(tmp_path / "run"))
    for mesh, stop in (
        (MeshConfig(data=2, tensor=4), stop_after(3)),
        (MeshConfig(data=1, fsdp=2, context=4), stop_after(3)),
        (MeshConfig(data=1, context=8), None),
    ):
        train(dataclasses.replace(experiment, mesh=mesh), stop=stop)
    train(in_directory(experiment, tmp_path / "alone"))
    assert_same_values(tmp_path / "run", tmp_path / "alone")
    for command in (
        ("eval", tmp_path / "run", "--mesh.data", 1, "--mesh.context", 1, "--json"),
        ("generate", tmp_path / "run", "The", "--max-new-tokens", 4, "--json"),
        ("export", tmp_path / "run", tmp_path / "exported"),
    ):
        code, _, err = flaxmill(*command)
        assert code == 0, err
    assert (tmp_path / "exported" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("number", "mesh", "flags"),
    [
        (2, ("--mesh.context", 4), ("--model.dropout", 0)),
        (4, ("--mesh.fsdp", 2, "--mesh.context", 4), ("--objective", "mlm", "--model.attention-dropout", 0)),
    ],
    ids=["2 processes share rows in zigzag", "4 processes, pairs share masked rows"],
)
def test_processes_that_share_rows_make_the_run_of_one(number, mesh, flags, corpus, tmp_path):
    """Each reads its tokens alone: the batches are the same to the bit."""
    mesh = ("--mesh.data", 1, *mesh)
    assert_processes_make_the_run_of_one(tmp_path, corpus, number, mesh, flags)
