"""Runs whose devices share rows: resumed, moved to other meshes, in several processes, used on one device."""

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

SHARED = MeshConfig(data=1, fsdp=2, context=4)
KINDS = {  # zigzag order, and tokens in their own order
    "causal": ("causal", {"dropout": 0.0}),
    "causal with dropout": ("causal", {"attention_dropout": 0.0}),
    "mlm_nsp": ("mlm_nsp", {"attention_dropout": 0.0}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_resumed_bit_for_bit_and_equals_that_of_one_device(
    kind, make_experiment, tmp_path, stop_after
):
    objective, model = KINDS[kind]
    experiment = make_experiment(objective, model, mesh=SHARED, eval_every=4)
    straight = assert_resumes(experiment, tmp_path, stop_after)
    alone = train(in_directory(experiment, tmp_path / "alone", mesh=MeshConfig(data=1)))
    found, expected = values_of(straight.directory), values_of(alone.directory)
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=MESH_TOLERANCE)
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
    found, expected = values_of(tmp_path / "run"), values_of(tmp_path / "alone")
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=MESH_TOLERANCE)
    for command in (
        ("eval", tmp_path / "run", "--mesh.data", 1, "--mesh.context", 1, "--json"),
        ("generate", tmp_path / "run", "The", "--max-new-tokens", 4, "--json"),
        ("export", tmp_path / "run", tmp_path / "exported"),
    ):
        code, _, err = flaxmill(*command)
        assert code == 0, err
    assert (tmp_path / "exported" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("number", "mesh"),
    [
        (2, ("--mesh.data", 1, "--mesh.context", 4)),
        (4, ("--mesh.data", 1, "--mesh.fsdp", 2, "--mesh.context", 4)),
    ],
    ids=["2 processes share rows", "4 processes, pairs share rows"],
)
def test_processes_that_share_rows_make_the_run_of_one(number, mesh, corpus, tmp_path):
    settings: dict[str, Any] = dict(steps=6, batch_size=8, eval_every=3, eval_batches=2)
    config = write_experiment(tmp_path / "job.py", "causal", corpus, checkpoint=dict(every=3), **settings)
    no_dropout = ("--model.dropout", "0")
    with Group(config, tmp_path / "shared", number, *mesh, *no_dropout) as group:
        assert group.wait() == [0] * number, group.errors
    env = environment(tmp_path / "cache", XLA_FLAGS=os.environ["XLA_FLAGS"])
    alone = ("train", config, "--run-dir", tmp_path / "alone", *no_dropout, "--log-digests")
    run_to_end(*alone, output=tmp_path / "alone.out", env=env)
    found, expected = step_rows(tmp_path / "shared"), step_rows(tmp_path / "alone")
    assert [row["step"] for row in found] == list(range(6))
    for one, other in zip(found, expected, strict=True):
        assert one["batch_digest"] == other["batch_digest"]
        assert one["loss"] == pytest.approx(other["loss"], rel=MESH_TOLERANCE)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=MESH_TOLERANCE)
