"""What a compiled step sends that the design does not want: a warning for each kind of it."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jax.sharding import Mesh

from flaxmill.train.compilation.collectives import Collective
from flaxmill.train.experiment import Experiment
from flaxmill.train.plan.memory import in_words
from flaxmill.train.plan.weights import GATHERED, Form, Weight, form_of, list_weights

FLOAT = 4  # bytes of a float32
_SMALL = 64 * 1024
"""Bytes that are not worth a warning."""
_MANY_PERMUTES = 16
"""Permutes a layer: gathers that are done piece by piece between parts of a product have more."""


class _Weights(NamedTuple):
    """The parameters of an experiment, as the products of a device need them."""

    split: frozenset[int]
    """Elements of each that fsdp splits, of one layer and of what a stage has; routers, which compute in
    float32, are left out."""
    stacked: frozenset[int]
    """Elements of those that hold several layers, for all layers at once."""
    stacks: frozenset[Form]
    """The forms of those stacks that no single layer's weight has."""
    whole_bytes: int
    """Of all that fsdp does not split."""
    in_stages: frozenset[int]
    """Elements of those of a pipeline, of one layer."""


class _Rule(NamedTuple):
    is_broken: Callable[[Collective], bool]
    reason: str


def find_warnings(collectives: Sequence[Collective], experiment: Experiment, mesh: Mesh) -> list[str]:
    """A line for each kind of collective that should not be there, with the largest as an example."""
    weights = _weights(experiment, mesh)
    warnings = [
        _describe([each for each in collectives if rule.is_broken(each)], rule.reason)
        for rule in _rules(experiment, weights)
    ]
    lines = [line for line in warnings if line] + _storms(collectives, experiment)
    return lines


def _rules(experiment: Experiment, weights: _Weights) -> list[_Rule]:
    casts = experiment.model.dtype != "float32"
    return [
        _Rule(
            lambda each: each.is_padded and each.num_bytes > _SMALL,
            "gathers are done as sums of padded arrays, which send twice the bytes",
        ),
        _Rule(
            lambda each: (
                each.kind == "all-reduce"
                and not each.is_padded
                and _crosses(each)
                and each.num_bytes > weights.whole_bytes + _SMALL
            ),
            "what fsdp splits is summed whole on every device, where a reduce-scatter would send half",
        ),
        _Rule(
            lambda each: (
                casts
                and each.kind == "all-gather"
                and _crosses(each)
                and each.dtype == "f32"
                and each.num_bytes > _SMALL
                and math.prod(each.shape) in weights.split | weights.stacked
            ),
            f"weights are gathered in float32 and cast to {experiment.model.dtype} afterwards, at twice the "
            "bytes",
        ),
        _Rule(
            lambda each: (
                each.kind == "all-gather"
                and _crosses(each)
                and each.num_bytes > _SMALL
                and form_of(each.shape) in weights.stacks
            ),
            "a weight is gathered for all layers at once, and held whole",
        ),
        _Rule(
            lambda each: (
                each.kind in ("all-gather", "all-to-all")
                and _crosses(each)
                and each.inside_layers
                and each.num_bytes > _SMALL
                and math.prod(each.shape) in weights.in_stages
            ),
            "layers of a stage are gathered at each turn, where once before the pipeline would do",
        ),
    ]


def _crosses(each: Collective) -> bool:
    """Whether it joins devices that have parts of weights."""
    return any(axis in each.axes for axis in GATHERED)


def _describe(found: list[Collective], reason: str) -> str | None:
    if not found:
        return None
    largest = max(found, key=lambda each: each.num_bytes)
    runs = sum(each.times for each in found)
    sent = sum(each.times * each.wire_bytes for each in found)
    array = f"{largest.dtype}{list(largest.shape)} of {largest.operation or largest.source_name}"
    return (
        f"{reason}: {runs} runs of {largest.kind} a step over {'+'.join(largest.axes)}, {in_words(sent)} "
        f"sent; the largest is {in_words(largest.num_bytes)}, {array}"
    )


def _storms(collectives: Sequence[Collective], experiment: Experiment) -> list[str]:
    # Keys and values that go around a ring are few and large, and so are rows on to the next stage.
    permutes = [
        each
        for each in collectives
        if each.kind == "collective-permute" and each.axes not in (("context",), ("stage",))
    ]
    runs = sum(each.times for each in permutes)
    if runs <= _MANY_PERMUTES * experiment.model.num_layers * experiment.accumulate:
        return []
    mean = sum(each.times * each.num_bytes for each in permutes) / runs
    line = (
        f"{runs:,} small permutes a step, {in_words(mean)} each on average: gathers are done piece by piece "
        "between parts of a product; use fewer devices in mesh.fsdp, or larger weights"
    )
    return [line]


def _weights(experiment: Experiment, mesh: Mesh) -> _Weights:
    weights = list_weights(experiment.model, experiment.optimizer.freeze, tuple(mesh.shape.items()))
    split = [weight for weight in weights if weight.is_split]
    stacks = [(count, *weight.shape) for weight in split if (count := weight.num_layers or 1) > 1]
    whole = [weight.size * (weight.num_layers or 1) for weight in weights if not weight.is_split]
    return _Weights(
        frozenset(size for weight in split if "router" not in weight.path for size in _sizes(weight, mesh)),
        frozenset(map(math.prod, stacks)),
        frozenset({*map(form_of, stacks)} - {form_of(weight.shape) for weight in split}),
        FLOAT * sum(whole),
        frozenset(weight.size for weight in split if weight.in_stages),
    )


def _sizes(weight: Weight, mesh: Mesh) -> Iterator[int]:
    """Elements of a weight as collectives over its parts have it."""
    num_stages = mesh.shape.get("stage", 1)
    if weight.in_stages:
        yield weight.size * (weight.num_layers or 1) // num_stages
    elif num_stages > 1:  # gathered over the stages first
        yield weight.size // mesh.shape["fsdp"]
    yield weight.size
