"""`flaxmill verify-resume --shrink`: a small experiment of the same kind, for a proof that is quick."""

import dataclasses
import math
from collections.abc import Sequence

from flaxmill.model.config import ModelConfig
from flaxmill.model.layer_plan import period_length
from flaxmill.train.experiment import Experiment

MAX_SEQUENCE_LENGTH = 128
MAX_HEAD_DIM = 32
MIN_ROWS = 4


def shrink(experiment: Experiment, meshes: Sequence[dict[str, int]]) -> Experiment:
    """The experiment with fewer layers, heads, rows and tokens.

    Nothing grows, and nothing of another kind comes in.

    Args:
      meshes: {axis: size} of every mesh that the result must divide over.

    Raises:
      ValueError: the config refuses the smaller model.
    """
    tensor = math.lcm(*(axes["tensor"] for axes in meshes))
    stages = [axes.get("stage", 1) for axes in meshes]
    turns = math.lcm(*(number * experiment.pipeline_rounds for number in stages if number > 1), 1)
    fsdp = math.lcm(*(axes["fsdp"] * number for axes, number in zip(meshes, stages, strict=True)))
    row_axes = ("data", "stage", "fsdp", "expert")
    shards = math.lcm(
        *(experiment.accumulate * math.prod(axes.get(axis, 1) for axis in row_axes) for axes in meshes)
    )
    rows = shards * -(-MIN_ROWS // shards)
    length = min(experiment.data.sequence_length, MAX_SEQUENCE_LENGTH)
    try:
        return dataclasses.replace(
            experiment,
            batch_size=min(experiment.batch_size, rows),
            data=dataclasses.replace(experiment.data, sequence_length=length),
            model=_shrink_model(experiment.model, tensor, fsdp, turns),
        )
    except ValueError as error:
        raise ValueError(
            f"--shrink makes an experiment that is refused ({error}); leave it out, and make fields smaller"
        ) from None


def _shrink_model(model: ModelConfig, tensor: int, fsdp: int, turns: int) -> ModelConfig:
    """Periods of the layers for so many turns of a pipeline, and a layer more; heads that divide over
    `tensor`.

    Without a pipeline one period, and at least two layers.
    """
    period = period_length(model)
    num_layers = max(2, period * turns + (1 if period > 1 or turns == 1 else 0))
    num_layers += 0 if model.first_attention_norm else 1
    num_heads, kv_heads = _few_heads(model, tensor)
    head_dim = _small_head_dim(model, num_heads, fsdp)
    embed_dim = num_heads * head_dim
    if head_dim > model.dim_per_head or embed_dim >= model.embed_dim:
        return dataclasses.replace(model, num_layers=min(model.num_layers, num_layers))
    mlp_dim = model.mlp_dim and _multiple(model.mlp_dim * embed_dim // model.embed_dim, tensor)
    return dataclasses.replace(
        model,
        num_layers=min(model.num_layers, num_layers),
        embed_dim=embed_dim,
        num_heads=num_heads,
        num_kv_heads=None if model.num_kv_heads is None else kv_heads,
        head_dim=None if model.head_dim is None else head_dim,
        mlp_dim=mlp_dim,
        expert_dim=model.expert_dim and _multiple(model.expert_dim * embed_dim // model.embed_dim, tensor),
    )


def _few_heads(model: ModelConfig, tensor: int) -> tuple[int, int]:
    """Heads and key-value heads, still in groups where they were."""
    group = min(2, model.num_heads // model.kv_heads)
    kv_heads = min(model.kv_heads, tensor if group > 1 else _multiple(2, tensor))
    return kv_heads * group, kv_heads


def _small_head_dim(model: ModelConfig, num_heads: int, fsdp: int) -> int:
    """The smallest, from MAX_HEAD_DIM or the model's own upwards, with which fsdp divides the width."""
    size = min(MAX_HEAD_DIM, model.dim_per_head)
    while num_heads * size % fsdp or size % 2 != model.dim_per_head % 2:
        size += 1
    return size


def _multiple(size: int, of: int) -> int:
    return of * max(1, -(-size // of))
