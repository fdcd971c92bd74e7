"""What cannot run on a mesh is refused in one line, and how rows lie on it."""

import dataclasses
from typing import Any

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.model import ModelConfig
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.experiment import Experiment
from flaxmill.train.run.mesh_fit import check_mesh, describe_pipeline, in_zigzag


def resolved(**fields: Any) -> Experiment:
    """An experiment with a vocabulary of 512, and its model's direction."""
    experiment = Experiment(**fields)
    causal = experiment.objective in ("causal", "prefix_lm")
    model = dataclasses.replace(experiment.model, vocab_size=512, causal=causal)
    return dataclasses.replace(experiment, model=model)


@pytest.mark.parametrize(
    ("mesh", "fields", "message"),
    [
        (
            {"data": 4, "fsdp": 2},
            {"batch_size": 12},
            r"batch_size=12 does not .* = 1 \* 4 \* 2 = 8; use a multiple of 8",
        ),
        ({"data": 4}, {"batch_size": 8, "accumulate": 4}, r"batch_size=8 .* = 4 \* 4 \* 1 = 16"),
        ({"data": 1, "tensor": 8}, {}, "model.num_heads=4 does not divide over mesh.tensor=8"),
        (
            {"data": 1, "tensor": 4},
            {"model": ModelConfig(num_kv_heads=2)},
            "model.num_kv_heads=2 does not divide",
        ),
        ({"data": 1, "tensor": 4}, {"model": ModelConfig(mlp_dim=130)}, "model.mlp_dim=130 does not divide"),
        (
            {"data": 1, "tensor": 4},
            {"model": ModelConfig(num_experts=2, mlp_dim=130, expert_dim=66)},  # mlp_dim is of no layer
            "model.expert_dim=66 does not divide over mesh.tensor=4",
        ),
        (
            {"data": 1, "context": 2},
            {"model": ModelConfig(num_experts=2, expert_capacity=1.5)},
            r"model.expert_capacity=1.5 is by whole rows; use mesh.context=1, or None",
        ),
        (
            {"data": 1, "expert": 4},
            {"model": ModelConfig(num_experts=6)},
            "model.num_experts=6 does not divide over mesh.expert=4; use a multiple of 4",
        ),
        (
            {"data": 2, "expert": 4},
            {"model": ModelConfig(num_experts=8), "batch_size": 12},
            r"batch_size=12 .* mesh.expert = 1 \* 2 \* 1 \* 4 = 8; use a multiple of 8",
        ),
        (
            {"data": 1, "expert": 2},
            {},
            "mesh.expert=2 divides experts over devices, but model.num_experts is None: set it, or use",
        ),
        (
            {"data": 1, "tensor": 3},
            {"model": ModelConfig(num_heads=3, embed_dim=96)},
            "padded model.vocab_size=512",
        ),
        (
            {"data": 1, "fsdp": 8},
            {"model": ModelConfig(embed_dim=100)},
            "model.embed_dim=100 does not divide over mesh.fsdp=8",
        ),
    ],
)
def test_sizes_that_do_not_divide_the_mesh_are_refused(mesh, fields, message):
    with pytest.raises(ValueError, match=message):
        check_mesh(resolved(**fields), make_mesh(MeshConfig(**mesh)))


def test_sizes_that_divide_the_mesh_pass():
    check_mesh(resolved(batch_size=8, accumulate=2), make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))


def test_mesh_can_be_checked_before_the_vocabulary_is_known():
    mesh = make_mesh(MeshConfig(data=1, tensor=8))
    with pytest.raises(ValueError, match=r"model.num_heads=4"):
        check_mesh(Experiment(), mesh)
    check_mesh(Experiment(model=ModelConfig(num_heads=8)), mesh)


def test_split_tokens_divide_over_tensor_and_are_of_one_length():
    mesh = make_mesh(MeshConfig(data=1, tensor=4))
    split = Experiment(mesh=MeshConfig(sequence_parallel=True), model=ModelConfig(vocab_size=128))
    check_mesh(split, mesh)
    odd = dataclasses.replace(split, data=dataclasses.replace(split.data, sequence_length=126))
    with pytest.raises(ValueError, match=r"data.sequence_length=126 does not divide over mesh.tensor=4"):
        check_mesh(odd, mesh)
    two = dataclasses.replace(split, model=dataclasses.replace(split.model, encoder_layers=2))
    with pytest.raises(ValueError, match=r"an encoder-decoder has two; leave it False"):
        check_mesh(two, mesh)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"data": DataConfig(sequence_length=132)},
            r"data.sequence_length=132 does not divide over 2 \* mesh.context = 2 \* 4 = 8; use a mult",
        ),
        (
            {"objective": "mlm", "data": DataConfig(sequence_length=130)},
            "data.sequence_length=130 does not divide over mesh.context=4; use a multiple of 4",
        ),
        ({"model": ModelConfig(encoder_layers=2)}, "mesh.context=4 splits rows of one length"),
        ({"model": ModelConfig(positions="relative")}, "no learned bias of all pairs is"),
        ({"model": ModelConfig(dropout=0.1)}, r"drops no probabilities \(attention dropout 0.1\); set"),
        ({"model": ModelConfig(attention="xla")}, "model.attention=xla cannot; use auto or blocks"),
        (
            {"model": ModelConfig(positions="rotary", rope_scaling="dynamic", rope_factor=2.0)},
            "depends on the length of whole documents",
        ),
    ],
)
def test_what_needs_whole_rows_is_refused_where_devices_share_them(fields, message):
    with pytest.raises(ValueError, match=message):
        check_mesh(resolved(**fields), make_mesh(MeshConfig(data=1, context=4)))


def test_causal_rows_without_dropout_lie_in_zigzag():
    """Dropout draws for tokens in their order; and where all tokens see all, no order is better."""
    assert in_zigzag(resolved())
    assert in_zigzag(Experiment())  # before its model's direction is filled in
    assert not in_zigzag(resolved(model=ModelConfig(dropout=0.1, attention_dropout=0.0)))
    assert not in_zigzag(resolved(objective="mlm"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model": ModelConfig(num_layers=6)},
            r"6 layers \(model.num_layers=6\) do not divide over mesh.stage \* .* = 4 \* 1 = 4; use",
        ),
        (
            {"model": ModelConfig(num_layers=12), "pipeline_rounds": 2},
            r"12 layers .* = 4 \* 2 = 8; use a multiple of 8, or other stages or rounds",
        ),
        (
            {"model": ModelConfig(num_layers=12, layer_pattern=("global", "local"), window=8)},
            r"6 periods of 2 layers \(model.num_layers=12\) do not divide",
        ),
        (
            {"batch_size": 8, "pipeline_microbatches": 2},
            r"2 microbatches \(pipeline_microbatches=2\) are fewer than mesh.stage=4, .* 8 rows: use 4",
        ),
        ({"batch_size": 2, "accumulate": 2}, r"1 microbatches .* are fewer than mesh.stage=4"),
        ({"batch_size": 3}, r"3 microbatches \(pipeline_microbatches=None\) are fewer than mesh.stage=4"),
        (
            {"batch_size": 12, "pipeline_microbatches": 8},
            "12 rows of a group of stages do not divide into pipeline_microbatches=8; use a divisor of 12",
        ),
        ({"batch_size": 6}, r"batch_size=6 does not divide over accumulate \* .* \* mesh.stage .* = 4"),
        (
            {"model": ModelConfig(num_layers=4, encoder_layers=2)},
            "but an encoder-decoder has two; use mesh.stage=1",
        ),
        ({"model": ModelConfig(num_layers=4, scan_layers=False)}, "model.scan_layers=False has none"),
        (
            {"model": ModelConfig(num_layers=4, embed_dim=126, num_heads=2, head_dim=64)},
            r"model.embed_dim=126 does not divide over mesh.fsdp \* mesh.stage = 1 \* 4 = 4",
        ),
    ],
)
def test_what_no_pipeline_can_run_is_refused(fields, message):
    fields = {"model": ModelConfig(num_layers=4)} | fields
    mesh = make_mesh(MeshConfig(data=1, stage=4))
    with pytest.raises(ValueError, match=message):
        check_mesh(resolved(**fields), mesh)


def test_a_pipeline_is_described_with_the_share_in_which_a_stage_waits():
    experiment = resolved(batch_size=16, accumulate=2, pipeline_rounds=2, model=ModelConfig(num_layers=8))
    mesh = make_mesh(MeshConfig(data=2, stage=4))
    assert describe_pipeline(experiment, mesh.shape) == (
        "pipeline of 4 stages, 4 microbatches in 2 rounds: each stage waits 27% of its time"
    )
    assert describe_pipeline(experiment, {"data": 2}) is None
