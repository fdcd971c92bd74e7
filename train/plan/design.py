"""The collectives that the train step is designed to run, with their sizes."""

# b rows of a microbatch on a device, T tokens, P predicted places, D model

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from flaxmill.model.config import ModelConfig, encoder_config
from flaxmill.model.layer_plan import layers_with_experts, plan_layers
from flaxmill.model.layers.expert_exchange import num_chunks, sends_choices
from flaxmill.model.layers.expert_slots import row_capacity
from flaxmill.sharding.schedule import Pipeline
from flaxmill.train.experiment import Experiment
from flaxmill.train.plan.weights import GATHERED, Mesh, Weight, list_weights

REDUCED_AGAIN = {"full": 1}
"""Reductions over `tensor` that a layer's recomputation repeats, where its last one is not needed."""


class Rows(NamedTuple):
    """What a device computes at a time."""

    rows: int
    """Rows of a microbatch on the device."""
    num_tokens: int
    """Tokens of a row that the device has; an encoder's, if there is one."""
    target_tokens: int | None
    """Tokens of a decoder's row; None: there is no encoder."""
    places: int
    """Places of a row that the head reads."""
    accumulate: int
    expert_groups: int = 1
    """Devices that divide the experts of a layer."""
    gathers_keys: bool = False
    """Devices that share rows gather their keys."""
    pipeline: Pipeline = Pipeline()

    @property
    def in_a_turn(self) -> int:
        """Rows that a stage works on at a time."""
        return self.rows * self.pipeline.num_stages // self.pipeline.num_microbatches

    def runs(self, model: ModelConfig) -> list[tuple[int, int]]:
        """Rows that layers compute at a time, and how many layers a device runs on so many."""
        pipeline = self.pipeline
        if pipeline.num_stages == 1:
            return [(self.rows, model.num_layers)]
        plan = plan_layers(model)
        num_piped = len(plan.period) * plan.num_periods
        of_a_turn = num_piped // (pipeline.num_stages * pipeline.num_rounds)
        return [(self.rows, model.num_layers - num_piped), (self.in_a_turn, pipeline.ticks * of_a_turn)]


class Planned(NamedTuple):
    """One collective of the design, run `times` a step."""

    what: str
    kind: str
    dtype: str
    num_bytes: int
    """The larger of operand and result, on one device."""
    times: int
    axes: tuple[str, ...]
    inside_layers: bool
    across_slices: bool = False
    wire_bytes: int | None = None
    """None: the design says what is sent and not how."""
    group: int | None = None
    """None: all devices along its axes."""


def list_collectives(experiment: Experiment, mesh: Mesh, rows: Rows) -> list[Planned]:
    """All that a step sends, the reductions of single numbers left out."""
    found = [
        *_of_weights(experiment, mesh, rows.accumulate),
        *_over_tensor(experiment.model, rows, experiment.mesh.sequence_parallel),
        *_of_shared_rows(experiment.model, rows, dict(mesh)),
        *_between_stages(experiment, dict(mesh), rows),
        *_to_experts(experiment.model, rows),
    ]
    several = {axis for axis, size in mesh if size > 1}
    found = [each._replace(axes=tuple(axis for axis in each.axes if axis in several)) for each in found]
    return [each for each in found if each.num_bytes and each.times and each.axes]


def _of_weights(experiment: Experiment, mesh: Mesh, accumulate: int) -> Iterator[Planned]:
    model, optimizer = experiment.model, experiment.optimizer
    weights = list_weights(model, optimizer.freeze, mesh)
    gradient = experiment.optimizer.gradient_dtype
    in_layers = [
        weight for weight in weights if weight.num_layers and weight.is_split and not weight.in_stages
    ]
    tables = [weight for weight in weights if weight.is_table and weight.is_split and not weight.num_layers]
    others = [w for w in weights if w.is_split and not w.num_layers and not w.is_table]
    gather, scatter = functools.partial(_gather_all, dict(mesh)), functools.partial(_scatter_all, dict(mesh))
    # Layers of a pipeline are gathered before it runs; beside it, layers stand by themselves.
    inside = not any(weight.in_stages for weight in weights)
    for layers, size in sorted(_by_depth(in_layers).items(), reverse=True):
        yield from gather("weights of a layer", model.dtype, size, 2 * layers * accumulate, inside)
    for layers, size in sorted(_by_depth([w for w in in_layers if w.is_trained]).items(), reverse=True):
        yield from scatter("gradients of a layer", gradient, size, layers * accumulate, inside)
    for table in tables:
        uses = 2 if model.tie_embeddings and table.path[0] == "embed" and model.head != "none" else 1
        yield from gather(f"table {table.path[0]}", model.dtype, table.size, accumulate)
        if table.is_trained:
            name = f"gradient of the table {table.path[0]}"
            yield from scatter(name, gradient, table.size, uses * accumulate)
    yield from gather("other weights", model.dtype, sum(w.size for w in others), accumulate)
    trained = sum(weight.size for weight in others if weight.is_trained)
    yield from scatter("gradients of other weights", gradient, trained, accumulate)
    yield from _over_copies("gradients", gradient, [w for w in weights if not w.is_apart], mesh, ("expert",))
    yield from _over_copies("gradients of experts", gradient, [w for w in weights if w.is_apart], mesh, ())


def _over_copies(
    what: str, dtype: str, weights: list[Weight], mesh: Mesh, others: tuple[str, ...]
) -> Iterator[Planned]:
    """Sums of gradients over the devices that hold the same weights, once a step."""
    parts = math.prod(dict(mesh).get(axis, 1) for axis in GATHERED)
    trained = [weight for weight in weights if weight.is_trained]
    shards = sum(_count(weight) // parts for weight in trained if weight.is_split)
    yield _reduce(f"{what}, shard by shard", dtype, shards, 1, ("data", *others, "context"))
    whole = sum(_count(weight) for weight in trained if not weight.is_split)
    yield _reduce(
        f"{what} that are not split", dtype, whole, 1, ("data", "stage", "fsdp", *others, "context")
    )


def _over_tensor(model: ModelConfig, rows: Rows, splits: bool) -> Iterator[Planned]:
    """Sums of what the devices of a tensor group compute of each token; where they share the tokens between
    blocks, each sum is a scatter after a block, and a gather before the next."""
    tensor, T, low = ("tensor",), rows.num_tokens, model.dtype
    stacks = [(model, T, 2)]
    if rows.target_tokens is not None:
        stacks = [(encoder_config(model), T, 2), (model, rows.target_tokens, 3)]
    for stack, tokens, blocks in stacks:
        again = REDUCED_AGAIN.get(model.remat, 0) * (blocks - (model.norm_position == "pre"))
        for num_rows, num_layers in rows.runs(stack):
            size, times = num_rows * tokens * model.embed_dim, num_layers * rows.accumulate
            yield from _around_blocks(model, size, times, blocks, again, splits)
        size = rows.rows * tokens * model.embed_dim
        if splits:
            yield _scatter("embedded tokens", low, size, rows.accumulate, axes=tensor)
            yield _gather(
                "tokens after the layers, and their gradients", low, size, 2 * rows.accumulate, axes=tensor
            )
        else:
            yield _reduce("embedded tokens", low, size, rows.accumulate, tensor)
    head = rows.rows * rows.places * model.embed_dim if model.num_classes is None else 0
    yield _reduce("gradient before the head", low, head, rows.accumulate, tensor)


def _around_blocks(
    model: ModelConfig, size: int, times: int, blocks: int, again: int, splits: bool
) -> Iterator[Planned]:
    """What layers send over `tensor`, of which `times` run, with `again` sums that are made again."""
    tensor, low = ("tensor",), model.dtype
    if splits:
        gathered = blocks * (2 if model.remat == "none" else 3)  # forward, gradients, and made again
        yield _gather("tokens of a layer", low, size, times * gathered, True, tensor)
        yield _scatter("activations of a layer", low, size, times * (2 * blocks + again), True, tensor)
    else:
        yield _reduce("activations of a layer", low, size, times * (blocks + again), tensor, True)
        yield _reduce("their gradients", low, size, times * blocks, tensor, True)


def _between_stages(experiment: Experiment, mesh: dict[str, int], rows: Rows) -> Iterator[Planned]:
    """Layers that stages get before a pipeline, their gradients after it, and the rows that pass through it.
    Documents and positions, which go beside the rows, are small and left out."""
    model, low, pipeline, axes = experiment.model, experiment.model.dtype, rows.pipeline, ("stage",)
    gradient, times = experiment.optimizer.gradient_dtype, rows.accumulate
    weights = list_weights(model, experiment.optimizer.freeze, tuple(mesh.items()))
    layers = sum(_count(w) for w in weights if w.in_stages and w.is_split) // pipeline.num_stages
    trained = sum(_count(w) for w in weights if w.in_stages and w.is_split and w.is_trained)
    trained //= pipeline.num_stages
    yield _change_hands("layers change hands", low, layers // mesh["fsdp"], times)
    yield _gather("weights of a stage", low, layers, times)
    yield _scatter("gradients of a stage", gradient, trained, times)
    yield _change_hands("gradients change hands", gradient, trained // mesh["fsdp"], times)
    hidden = rows.num_tokens * model.embed_dim
    if experiment.mesh.sequence_parallel:
        hidden //= mesh["tensor"]
    group = rows.rows * pipeline.num_stages * hidden
    yield _gather("rows of all stages, and gradients", low, group, 2 * times, axes=axes)
    yield _scatter("rows of a stage, and gradients", low, group, 2 * times, axes=axes)
    size = rows.in_a_turn * hidden * itemsize(low)
    yield Planned(
        "rows on to the next stage", "collective-permute", low, size, 2 * times * pipeline.ticks, axes, False
    )


def _of_shared_rows(model: ModelConfig, rows: Rows, mesh: dict[str, int]) -> Iterator[Planned]:
    """Keys and values that devices which share rows gather, or pass on in a ring with their gradients."""
    parts, axes = mesh.get("context", 1), ("context",)
    heads = 2 * model.kv_heads * model.dim_per_head // mesh["tensor"]
    forward = 1 if model.remat == "none" else 2
    for num_rows, num_layers in rows.runs(model):
        size, times = num_rows * rows.num_tokens * heads, num_layers * rows.accumulate
        if rows.gathers_keys:
            what = "keys and values of a layer"
            yield _gather(what, model.dtype, parts * size, times * forward, True, axes)
            yield _scatter(f"gradients of {what}", "float32", parts * size, times, True, axes)
            continue
        for what, dtype, turns in (
            ("keys and values of a layer", model.dtype, (forward + 1) * (parts - 1)),
            ("gradients of keys and values", "float32", parts),
        ):
            num_bytes = size * itemsize(dtype)
            yield Planned(what, "collective-permute", dtype, num_bytes, times * turns, axes, True)


class Exchange(NamedTuple):
    """How the tokens of a layer meet experts on other devices, as model/layers/expert_exchange.py has it."""

    num_sent: int
    """Vectors of one collective: slots, or tokens of all devices."""
    num_chunks: int
    sends_choices: bool
    kept: float = 1
    """Slots that are kept for the backward pass, for each that a device alone would have."""
    working: float = 1
    """Slots that are computed at a time, for each that a device alone would have."""


def exchange_of(model: ModelConfig, rows: Rows) -> Exchange:
    """The exchange of a model; without experts, or with all on one device, nothing is sent."""
    groups, num_tokens = rows.expert_groups, rows.rows * rows.num_tokens
    if model.num_experts is None or groups == 1:
        return Exchange(0, 1, False)
    shape = rows.rows, rows.num_tokens, model.experts_per_token
    capacity = row_capacity(shape, model.num_experts, model.expert_capacity)
    if capacity is not None:
        if sends_choices(shape, model.num_experts, capacity, groups):
            return Exchange(rows.rows * model.num_experts * capacity, 1, True)
        return Exchange(groups * num_tokens, 1, False)
    token_bytes = groups * model.experts_per_token * model.embed_dim * itemsize(model.dtype)
    chunks = num_chunks(num_tokens, token_bytes)
    # Any device may get all choices of all; what is computed in chunks is computed again.
    kept = groups if chunks == 1 else 0
    return Exchange(groups * num_tokens // chunks, chunks, False, kept, groups / chunks)


def _to_experts(model: ModelConfig, rows: Rows) -> Iterator[Planned]:
    """Tokens on their way to experts of other devices and back, and their gradients. What says which experts
    they go to is small, and left out."""
    axes, low = ("expert",), model.dtype
    for num_rows, num_layers in rows.runs(model):
        exchange = exchange_of(model, rows._replace(rows=num_rows))
        again = model.remat != "none" or exchange.num_chunks > 1  # sent again to be computed again
        times = num_layers * layers_with_experts(model) // model.num_layers
        times *= rows.accumulate * exchange.num_chunks
        size = exchange.num_sent * model.embed_dim
        if exchange.sends_choices:
            num_bytes = size * itemsize(low)
            yield Planned("slots of experts", "all-to-all", low, num_bytes, (4 + again) * times, axes, True)
        else:
            yield _gather("tokens for experts, and gradients", low, size, (2 + again) * times, True, axes)
            yield _scatter("outputs of experts, and gradients", low, size, 2 * times, True, axes)


def _by_depth(weights: list[Weight]) -> dict[int, int]:
    """Elements of one layer, by the number of layers in its stack."""
    sizes: dict[int, int] = {}
    for weight in weights:
        assert weight.num_layers is not None
        sizes[weight.num_layers] = sizes.get(weight.num_layers, 0) + weight.size
    return sizes


def _count(weight: Weight) -> int:
    return weight.size * (weight.num_layers or 1)


def _gather_all(
    mesh: dict[str, int], what: str, dtype: str, size: int, times: int, inside: bool = False
) -> Iterator[Planned]:
    """Over all axes that split a weight: first along the slower wires, while it is small."""
    yield _gather(what, dtype, size // mesh["fsdp"], times, inside, ("stage",))
    yield _gather(what, dtype, size, times, inside)


def _scatter_all(
    mesh: dict[str, int], what: str, dtype: str, size: int, times: int, inside: bool = False
) -> Iterator[Planned]:
    """The way back of `_gather_all`."""
    yield _scatter(what, dtype, size, times, inside)
    yield _scatter(what, dtype, size // mesh["fsdp"], times, inside, ("stage",))


def _change_hands(what: str, dtype: str, size: int, times: int) -> Planned:
    return Planned(what, "all-to-all", dtype, size * itemsize(dtype), times, ("stage",), False)


def _gather(
    what: str, dtype: str, size: int, times: int, inside: bool = False, axes: tuple[str, ...] = ("fsdp",)
) -> Planned:
    return Planned(what, "all-gather", dtype, size * itemsize(dtype), times, axes, inside)


def _scatter(
    what: str, dtype: str, size: int, times: int, inside: bool = False, axes: tuple[str, ...] = ("fsdp",)
) -> Planned:
    return Planned(what, "reduce-scatter", dtype, size * itemsize(dtype), times, axes, inside)


def _reduce(
    what: str, dtype: str, size: int, times: int, axes: tuple[str, ...], inside: bool = False
) -> Planned:
    return Planned(what, "all-reduce", dtype, size * itemsize(dtype), times, axes, inside)


def itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
