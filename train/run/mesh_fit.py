"""Whether an experiment can run on a mesh, and how its rows lie there."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from flaxmill.data.messages import require
from flaxmill.model.config import ModelConfig
from flaxmill.model.layer_plan import plan_layers
from flaxmill.sharding.mesh import AXES
from flaxmill.sharding.schedule import Pipeline, microbatches
from flaxmill.train.experiment import Experiment
from flaxmill.train.objectives.table import OBJECTIVES

if TYPE_CHECKING:
    import jax


def check_mesh(experiment: Experiment, mesh: "jax.sharding.Mesh") -> None:
    """Check that rows, tokens, heads, MLP, experts, vocabulary (once it is known) and width divide over the
    mesh.

    Raises:
      ValueError: naming the size, the mesh axes that do not divide it, and what would.
    """
    from flaxmill.sharding.rules import ACTIVATION_RULES  # here, so that no config waits for JAX

    model = experiment.model
    axes: dict[str, int] = {axis: mesh.shape.get(axis, 1) for axis in AXES}
    if axes["stage"] > 1:
        _check_stages(experiment, axes)
    row_axes = ACTIVATION_RULES["batch"] or ()
    _check_divides(
        "batch_size",
        experiment.batch_size,
        {"accumulate": experiment.accumulate}
        | {f"mesh.{axis}": axes[axis] for axis in row_axes if axis in ("data", "fsdp") or axes[axis] > 1},
    )
    if axes["expert"] > 1:
        require(
            model.num_experts is not None,
            f"mesh.expert={axes['expert']} divides experts over devices, but model.num_experts is None: set "
            "it, or use mesh.expert=1",
        )
        _check_divides("model.num_experts", model.num_experts or 0, {"mesh.expert": axes["expert"]})
    for name, size in (
        ("model.num_heads", model.num_heads),
        ("model.num_kv_heads", model.kv_heads),
        ("model.encoder_num_heads", model.encoder_num_heads or model.num_heads),
        ("model.mlp_dim", model.hidden_dim if model.num_experts is None or model.moe_every > 1 else 0),
        ("model.expert_dim", 0 if model.num_experts is None else model.expert_hidden_dim),
        ("model.encoder_mlp_dim", model.encoder_mlp_dim or model.hidden_dim),
        ("padded model.vocab_size", model.padded_vocab_size if model.vocab_size else 0),
    ):
        _check_divides(name, size, {"mesh.tensor": axes["tensor"]})
    parts_of_weights = {"mesh.fsdp": axes["fsdp"]} | (
        {"mesh.stage": axes["stage"]} if axes["stage"] > 1 else {}
    )
    _check_divides("model.embed_dim", model.embed_dim, parts_of_weights)
    if experiment.mesh.sequence_parallel:
        _check_one_length("mesh.sequence_parallel=True", "leave it False", model)
    parts = {"mesh.tensor": axes["tensor"]} if experiment.mesh.sequence_parallel else {}
    if axes["context"] > 1:
        _check_context(experiment, axes["context"])
        chunks = {"2": 2} if in_zigzag(experiment) else {}
        parts |= chunks | {"mesh.context": axes["context"]}
    _check_divides("data.sequence_length", experiment.data.sequence_length, parts)


def in_zigzag(experiment: Experiment) -> bool:
    """Whether devices that share a row hold its tokens in zigzag order, which gives causal rows even work.

    Dropout draws for tokens in order, and a decision on a row looks for its first or last token.
    """
    causal = experiment.model.causal
    if causal is None:  # not resolved yet
        causal = experiment.definition.causal
    return causal is True and experiment.model.dropout == 0 and not experiment.definition.is_task


def does_gather_keys(experiment: Experiment, platform: str, num_tokens: int) -> bool:
    """Whether devices that have so many tokens of each row gather keys, and pass none around a ring."""
    from flaxmill.model.layers.attention import gathers_keys  # here, so that no config waits for JAX

    has_one_rule = experiment.objective not in ("hybrid", "prefix_lm")
    return experiment.model.attention == "auto" and has_one_rule and gathers_keys(platform, num_tokens)


def describe_pipeline(experiment: Experiment, axes: Mapping[str, int]) -> str | None:
    """The schedule of the stages in one line, and how much of their time they wait; None: one device has all
    layers."""
    return describe_schedule(pipeline_of(experiment, axes))


def describe_schedule(found: Pipeline) -> str | None:
    """The same of a schedule that is known."""
    if found.num_stages == 1:
        return None
    rounds = f" in {found.num_rounds} rounds" if found.num_rounds > 1 else ""
    return (
        f"pipeline of {found.num_stages} stages, {found.num_microbatches} microbatches{rounds}: each stage "
        f"waits {found.bubble:.0%} of its time"
    )


def pipeline_of(experiment: Experiment, axes: Mapping[str, int]) -> Pipeline:
    """The schedule on a mesh of these sizes."""
    num_stages = axes.get("stage", 1)
    if num_stages == 1:
        return Pipeline()
    found = experiment.pipeline_microbatches or microbatches(_rows_of_stages(experiment, axes), num_stages)
    return Pipeline(num_stages, found, experiment.pipeline_rounds)


def _rows_of_stages(experiment: Experiment, axes: Mapping[str, int]) -> int:
    """The rows that pass through a group of stages in a microbatch of `accumulate`."""
    groups = math.prod(size for axis, size in axes.items() if axis in ("data", "fsdp", "expert"))
    return experiment.batch_size // (experiment.accumulate * groups)


def _check_stages(experiment: Experiment, axes: Mapping[str, int]) -> None:
    """What `mesh.stage` cannot do."""
    model, num_stages, num_rounds = experiment.model, axes["stage"], experiment.pipeline_rounds
    setting = f"mesh.stage={num_stages}"
    require(
        model.encoder_layers is None,
        f"{setting} is a pipeline of one stack of layers, but an encoder-decoder has two; use mesh.stage=1",
    )
    require(
        model.scan_layers,
        f"{setting} gives each stage a loop over its layers, and model.scan_layers=False has none; use "
        "mesh.stage=1, or True",
    )
    plan = plan_layers(model)
    turns, period = num_stages * num_rounds, len(plan.period)
    layers = "layers" if period == 1 else f"periods of {period} layers"
    require(
        plan.num_periods > 0 and plan.num_periods % turns == 0,
        f"{plan.num_periods} {layers} (model.num_layers={model.num_layers}) do not divide over mesh.stage * "
        f"pipeline_rounds = {num_stages} * {num_rounds} = {turns}; use a multiple of {turns}, or other "
        "stages or rounds",
    )
    rows, found = _rows_of_stages(experiment, axes), pipeline_of(experiment, axes).num_microbatches
    require(
        found >= num_stages,
        f"{found} microbatches (pipeline_microbatches={experiment.pipeline_microbatches}) are fewer than "
        f"{setting}, so that some stages would never work; a group of stages has {rows} rows: use "
        f"{num_stages} or more, and a batch_size for them",
    )
    require(
        rows % found == 0,
        f"the {rows} rows of a group of stages do not divide into pipeline_microbatches={found}; use a "
        f"divisor of {rows}",
    )


def _check_context(experiment: Experiment, num_parts: int) -> None:
    """What `mesh.context` cannot do."""
    model, setting = experiment.model, f"mesh.context={num_parts}"
    _check_one_length(setting, "use mesh.context=1", model)
    require(
        experiment.objective in OBJECTIVES,
        f"{setting} gives a device a part of each row, and the sums of objective={experiment.objective}, "
        "which a file defines, may need whole rows; use mesh.context=1",
    )
    require(
        model.positions != "relative",
        f"{setting} passes keys around a ring of devices, where no learned bias of all pairs is "
        "(model.positions=relative); use mesh.context=1, or other positions",
    )
    require(
        model.attention_dropout_rate == 0,
        f"{setting} passes keys around a ring of devices, which drops no probabilities (attention dropout "
        f"{model.attention_dropout_rate}); set model.attention_dropout=0, other dropout stays",
    )
    require(
        model.attention in ("auto", "blocks"),
        f"{setting} attends in blocks, and model.attention={model.attention} cannot; use auto or blocks",
    )
    require(
        model.expert_capacity is None,
        f"{setting} gives a device a part of each row, and model.expert_capacity={model.expert_capacity} is "
        "by whole rows; use mesh.context=1, or None",
    )
    require(
        not model.turns_by_length,
        f"{setting} gives a device a part of each row, and model.rope_scaling depends on the length of whole "
        "documents; use mesh.context=1",
    )


def _check_one_length(setting: str, fix: str, model: ModelConfig) -> None:
    require(
        model.encoder_layers is None,
        f"{setting} splits rows of one length, but an encoder-decoder has two; {fix}",
    )


def _check_divides(name: str, size: int, factors: Mapping[str, int]) -> None:
    parts = math.prod(factors.values())
    if len(factors) == 1:
        (axis,) = factors
        over, other = f"{axis}={parts}", f", or another {axis}"
    else:
        over, other = f"{' * '.join(factors)} = {' * '.join(map(str, factors.values()))} = {parts}", ""
    require(size % parts == 0, f"{name}={size} does not divide over {over}; use a multiple of {parts}{other}")
