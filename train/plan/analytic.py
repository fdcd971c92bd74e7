"""Memory, wires and seconds of a step, from shapes and formulas: no program is compiled."""

# b rows of a microbatch on a device, T tokens, P predicted places, D model, V vocab on a device

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from jax.sharding import AbstractMesh

from flaxmill.data.objectives import find_function
from flaxmill.model.config import ModelConfig, encoder_config
from flaxmill.model.layer_plan import plan_layers
from flaxmill.sharding.hardware.chips import Chip
from flaxmill.sharding.schedule import Pipeline
from flaxmill.train.experiment import Experiment
from flaxmill.train.metrics.flops import (
    BACKWARD,
    StepFlops,
    chunked_flops,
    head_flops,
    recomputed_flops,
    step_flops,
)
from flaxmill.train.objectives.cross_entropy import tokens_of_chunk
from flaxmill.train.plan.activations import Kept, attention_is_fused, kept_by_layer
from flaxmill.train.plan.design import Planned, Rows, exchange_of, itemsize, list_collectives
from flaxmill.train.plan.roofline import Roofline, make_roofline
from flaxmill.train.plan.weights import (
    HostMemory,
    Mesh,
    StateBytes,
    Weight,
    list_weights,
    state_bytes,
    without_remat,
)
from flaxmill.train.resolution import target_length
from flaxmill.train.run.mesh_fit import check_mesh, does_gather_keys, pipeline_of

FLOAT = 4  # bytes of a float32


class EstimatedMemory(NamedTuple):
    """Bytes of one device at the peak of a step."""

    parameters: int
    optimizer: int
    gradients: int
    activations: int
    """What the backward pass keeps of the forward pass."""
    temporary: int
    """What one layer or the loss needs while it runs, whichever is more."""
    limit: int | None
    """None: nobody knows."""
    largest: tuple[str, int]
    """The largest part of `temporary`."""
    host: HostMemory
    """What its host keeps for it, which is no part of the total."""

    @property
    def total(self) -> int:
        return self.parameters + self.optimizer + self.gradients + self.activations + self.temporary

    @property
    def fits(self) -> bool:
        return self.limit is None or self.total <= self.limit


class Estimate(NamedTuple):
    """What a step takes on a mesh."""

    mesh: Mesh
    memory: EstimatedMemory
    collectives: list[Planned]
    flops: StepFlops
    """Of the model."""
    hardware_flops: float
    """With what is computed again, and what stages compute while they wait; fused kernels skip the half of
    causal attention that is masked."""
    moved_bytes: float
    """That a device reads and writes in its memory at least."""
    num_tokens: int
    """Tokens of a step."""
    roofline: Roofline | None
    """None: the chip is unknown."""
    pipeline: Pipeline


def estimate(
    experiment: Experiment,
    mesh_shape: Mapping[str, int],
    chip: Chip | None,
    num_slices: int = 1,
    domain: int | None = None,
    platform: str | None = None,
) -> Estimate:
    """The estimate of a resolved experiment's step.

    Args:
      mesh_shape: sizes of data, fsdp, tensor and any other axes, outermost first.
      domain: devices that share fast links; None: what the chip says, or those of a slice.
      platform: None: the chip's, or a CPU.

    Raises:
      ValueError: rows, heads or widths do not divide over the mesh.
    """
    mesh = tuple(mesh_shape.items())
    check_mesh(experiment, AbstractMesh(tuple(mesh_shape.values()), tuple(mesh_shape)))  # type: ignore[arg-type]
    platform = platform or (chip.platform if chip else "cpu")
    whole, rows = rows_of(experiment, {**mesh_shape, "context": 1}), rows_of(experiment, mesh_shape)
    if rows.num_tokens < whole.num_tokens:
        rows = rows._replace(gathers_keys=does_gather_keys(experiment, platform, rows.num_tokens))
        if not rows.gathers_keys:  # no kernel serves a ring of devices
            experiment = replace(experiment, model=replace(experiment.model, attention="blocks"))
    memory, moved = _memory(experiment, mesh, rows, platform, chip)
    collectives = list_collectives(experiment, mesh, rows)
    num_chunks = _num_chunks(experiment.model, rows, mesh_shape, platform)
    flops, hardware = _flops(experiment, whole, platform, num_chunks, rows.pipeline)
    if exchange_of(experiment.model, rows).num_chunks > 1:
        hardware += chunked_flops(experiment.model, experiment.batch_size, whole.num_tokens)
    num_tokens = experiment.batch_size * (whole.num_tokens + (whole.target_tokens or 0))
    roofline = None
    if chip is not None:
        near = domain or chip.link_domain or math.prod(mesh_shape.values()) // num_slices
        roofline = make_roofline(flops, hardware, moved, collectives, chip, mesh_shape, num_tokens, near)
    return Estimate(mesh, memory, collectives, flops, hardware, moved, num_tokens, roofline, rows.pipeline)


def rows_of(experiment: Experiment, mesh_shape: Mapping[str, int]) -> Rows:
    """The rows of a device in one microbatch, and its part of their tokens."""
    axes = [mesh_shape.get(axis, 1) for axis in ("data", "stage", "fsdp", "expert")]
    shards = experiment.accumulate * math.prod(axes)
    bound = experiment.definition.data.max_predictions
    has_encoder = experiment.model.encoder_layers is not None
    target = target_length(experiment) if has_encoder else None
    length = experiment.data.sequence_length
    last = length if target is None else target
    places = last if bound is None else find_function(bound)(experiment.data)
    parts = mesh_shape.get("context", 1)
    places = min(places, last // parts)
    return Rows(
        experiment.batch_size // shards,
        length // parts,
        target,
        places,
        experiment.accumulate,
        mesh_shape.get("expert", 1),
        pipeline=pipeline_of(experiment, mesh_shape),
    )


def _flops(
    experiment: Experiment, rows: Rows, platform: str, num_chunks: int, pipeline: Pipeline
) -> tuple[StepFlops, float]:
    model, size = experiment.model, experiment.batch_size
    lengths = rows.num_tokens, rows.target_tokens
    flops = step_flops(model, size, rows.num_tokens, rows.places, rows.target_tokens)
    again = recomputed_flops(model, size, *lengths)
    head = head_flops(model, size, rows.places)
    logits = head if num_chunks > 1 else 0.0
    skips = attention_is_fused(model, platform, rows.num_tokens)
    found = flops.causal + again.causal if skips else flops.full + again.full
    if pipeline.num_stages > 1:  # a stage that waits runs its layers too, on rows that do not count
        plan = plan_layers(model)
        share = len(plan.period) * plan.num_periods / model.num_layers
        found += share * (found - (1 + BACKWARD) * head) * pipeline.bubble / (1 - pipeline.bubble)
    return flops, logits + found


def _num_chunks(model: ModelConfig, rows: Rows, mesh_shape: Mapping[str, int], platform: str) -> int:
    """Chunks of the loss, as train/objectives/cross_entropy.py chooses them."""
    if model.num_classes is not None:
        return 1
    row_bytes = FLOAT * max(1, rows.rows * model.padded_vocab_size // mesh_shape["tensor"])
    return -(-rows.places // tokens_of_chunk(row_bytes, platform))


def _memory(
    experiment: Experiment, mesh: Mesh, rows: Rows, platform: str, chip: Chip | None
) -> tuple[EstimatedMemory, float]:
    """Memory at the peak, and the bytes that a step reads and writes at least."""
    model, shape = experiment.model, dict(mesh)
    plain = without_remat(model)  # the state does not depend on it, and is computed once
    state = state_bytes(plain, experiment.optimizer, mesh)
    weights = list_weights(plain, experiment.optimizer.freeze, mesh)
    num_chunks = _num_chunks(model, rows, shape, platform)
    sequence = shape["tensor"] if experiment.mesh.sequence_parallel else 1
    kept = _kept_bytes(model, rows, platform, shape["tensor"], sequence, num_chunks)
    offloaded = _offloaded_bytes(model, rows, platform, shape["tensor"], sequence)
    parts = _temporary(experiment, weights, state, rows, platform, shape, num_chunks)
    phase, temporary = max(parts.items(), key=lambda part: part[1])
    memory = EstimatedMemory(
        state.parameters,
        state.optimizer,
        state.trained,
        int(kept),
        int(temporary),
        chip.memory_bytes if chip else None,
        (phase, int(temporary)),
        HostMemory(state.on_host, int(offloaded)),
    )
    gathered = sum(w.size * _num_read(w, rows) for w in weights) * itemsize(model.dtype)
    passes = 2 * (state.parameters + state.optimizer + state.on_host) + rows.accumulate * (
        2 * state.trained + 4 * gathered + 2 * (kept + offloaded)
    )
    return memory, passes


def _kept_bytes(
    model: ModelConfig, rows: Rows, platform: str, tensor: int, sequence: int, num_chunks: int
) -> float:
    """Activations that the backward pass needs, of a microbatch on a device."""
    num_bytes = 0.0
    for stack, tokens, kept in _stacks(model, rows, platform):
        ends = tokens * model.embed_dim * (2 * itemsize(model.dtype) + FLOAT)  # embedded, normed, hidden
        inside = sum(math.prod(run) for run in rows.runs(stack))
        num_bytes += inside * kept.row_bytes(tokens, tensor, sequence) + rows.rows * ends
    return num_bytes + (_logits_bytes(model, rows, tensor) if num_chunks == 1 else 0)


def _offloaded_bytes(model: ModelConfig, rows: Rows, platform: str, tensor: int, sequence: int) -> float:
    """Activations of a microbatch of a device that wait in the memory of its host."""
    if not any(entry.endswith("=offload") for entry in model.remat_tensors):
        return 0.0
    return sum(
        sum(math.prod(run) for run in rows.runs(stack)) * kept.row_bytes(tokens, tensor, sequence)
        for stack, tokens, kept in _stacks(model, rows, platform, on_host=True)
    )


def _stacks(
    model: ModelConfig, rows: Rows, platform: str, on_host: bool = False, is_working: bool = False
) -> list[tuple[ModelConfig, int, Kept]]:
    """Each stack of layers, its tokens, and what a layer keeps in the memory of the device or its host.

    Args:
      is_working: the layer's own backward pass keeps it, and not that of the stack.
    """
    if rows.target_tokens is None:
        exchange, T = exchange_of(model, rows), rows.num_tokens
        slots = exchange.working if is_working else exchange.kept
        return [(model, T, kept_by_layer(model, platform, T, on_host=on_host, slots=slots))]
    encoder, T = encoder_config(model), rows.target_tokens
    return [
        (encoder, rows.num_tokens, kept_by_layer(encoder, platform, rows.num_tokens, on_host=on_host)),
        (model, T, kept_by_layer(model, platform, T, crosses=True, on_host=on_host)),
    ]


@cache
def _keeping_products(model: ModelConfig) -> ModelConfig:
    """The layers' products are what the backward pass makes again, whatever it keeps."""
    return replace(without_remat(model), remat="dots")


def _logits_bytes(model: ModelConfig, rows: Rows, tensor: int) -> float:
    """float32 logits of all places of a microbatch on a device."""
    if model.num_classes is not None:
        return 0
    return FLOAT * rows.rows * rows.places * model.padded_vocab_size / tensor


def _temporary(
    experiment: Experiment,
    weights: tuple[Weight, ...],
    state: StateBytes,
    rows: Rows,
    platform: str,
    shape: dict[str, int],
    num_chunks: int,
) -> dict[str, float]:
    """Bytes that each phase of a step needs beside the state, the gradients and the kept activations."""
    model, tensor, low = experiment.model, shape["tensor"], itemsize(experiment.model.dtype)
    tables = [weight for weight in weights if weight.is_table]
    table = max((weight.size for weight in tables), default=0)
    hidden = rows.rows * max(rows.places, rows.num_tokens) * model.embed_dim
    layer = sum(w.size for w in weights if w.num_layers) // _num_groups(weights)
    computed_again = [Kept(0, 0, 0)] * 2
    if model.remat == "full":
        products = _keeping_products(model)
        computed_again = [kept for _, _, kept in _stacks(products, rows, platform, is_working=True)]
    exchange = exchange_of(model, rows)
    sent = 2 * low * exchange.num_sent * model.embed_dim  # on the way to experts, and back
    working = max(num_rows for num_rows, times in rows.runs(model) if times) * max(
        _working_bytes(stack, T, tensor, attention_is_fused(stack, platform, T), again, exchange.working)
        for (stack, T, _), again in zip(_stacks(model, rows, platform), computed_again, strict=False)
    )
    more = state.trained if rows.accumulate > 1 else 0
    logits = _logits_bytes(model, rows, tensor) / num_chunks
    # A stage holds its layers whole until their gradients are complete, and the rows of all stages.
    open_layers = (
        sum(w.size * (w.num_layers or 1) for w in weights if w.in_stages) // rows.pipeline.num_stages
    )
    if open_layers:
        group = rows.rows * rows.num_tokens * model.embed_dim * rows.pipeline.num_stages
        layer, working = 0, working + open_layers * (low + FLOAT) + 2 * low * group
    return {
        "the loss": more
        + low * open_layers
        + logits * (2 + low / FLOAT)
        + table * (low + FLOAT)
        + 2 * low * hidden,
        "a layer": more
        + table * low
        + layer * (low + itemsize(experiment.optimizer.gradient_dtype))
        + working
        + sent,
        "the gradient of the embedding": more + table * (low + 2 * FLOAT) + 2 * low * hidden,
    }


def _working_bytes(
    model: ModelConfig, num_tokens: int, tensor: int, fused: bool, again: Kept, slots: float
) -> float:
    """Bytes of one row in the backward pass of a layer: what is computed again, and gradients of the MLP's
    hidden units, of [T,D] and of attention's pairs.

    Args:
      slots: of experts, for each that a device alone would have.
    """
    low = itemsize(model.dtype)
    width, hidden = model.embed_dim, model.hidden_dim
    if model.num_experts is not None:  # each token has a slot with each of its experts
        width *= 1 + slots * model.experts_per_token
        of_experts = slots * model.experts_per_token * model.expert_hidden_dim
        hidden = max(hidden * (model.moe_every > 1), of_experts)
    gradients = 2 * low * num_tokens * (width + hidden / tensor)
    pairs = 0 if fused else 2 * FLOAT * num_tokens**2 * model.num_heads / tensor
    return again.row_bytes(num_tokens, tensor) + gradients + pairs


def _num_groups(weights: tuple[Weight, ...]) -> int:
    """Stacks of layers, so that the mean of their layers' weights can be taken."""
    return max(
        1, len({(w.path[0], w.path[1] if w.path[0] == "encoder" else "") for w in weights if w.num_layers})
    )


def _num_read(weight: Weight, rows: Rows) -> int:
    """How many layers of a weight the forward pass of a device reads, each as often as it runs."""
    if not weight.in_stages:
        return weight.num_layers or 1
    pipeline = rows.pipeline
    return pipeline.ticks * (weight.num_layers or 1) // (pipeline.num_stages * pipeline.num_rounds)
