"""How a stack of layers is cut for compiling: an unrolled start, repeated periods, an unrolled end.

Layers of one group have the same parts, and are stacked along a leading dimension of their parameters. A
period is the shortest run of layers after which the pattern of attention (GPT-Neo: global, local) and the
places of experts repeat; one period is compiled however many there are.
"""

import math
from typing import NamedTuple

from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import LayerKind

LAYER_GROUPS = ("first_layers", "dense_layers", "layers", "last_dense_layers", "last_layers")
"""Keys of params below which every array has a leading layer dimension."""
DENSE_GROUPS = ("dense_layers", "last_dense_layers")
"""The groups of layers without experts, where others have them."""


class PlannedLayer(NamedTuple):
    """What tells the layers of a stack apart."""

    kind: LayerKind
    has_experts: bool


class LayerPlan(NamedTuple):
    """The first layers, one period (run `num_periods` times) and the last layers."""

    first: tuple[PlannedLayer, ...]
    period: tuple[PlannedLayer, ...]
    num_periods: int
    last: tuple[PlannedLayer, ...]

    def slots(self) -> list[tuple[str, int]]:
        """(group, index within the group) of every layer, in order of depth."""
        parts = {"first_": self.first, "": self.period * self.num_periods, "last_": self.last}
        are_mixed = any(layer.has_experts for layers in parts.values() for layer in layers)
        taken: dict[str, int] = dict.fromkeys(LAYER_GROUPS, 0)
        slots = []
        for part, layers in parts.items():
            for layer in layers:
                # The single first layer is a group by itself, whatever it has.
                is_dense = are_mixed and not layer.has_experts and part != "first_"
                group = f"{part}{'dense_' if is_dense else ''}layers"
                slots.append((group, taken[group]))
                taken[group] += 1
        return slots


def plan_layers(config: ModelConfig) -> LayerPlan:
    """Cut the stack so that all that repeats is in periods."""
    layers = planned_layers(config)
    num_first = 0 if config.first_attention_norm else 1  # a layer with other parts cannot be stacked
    rest = layers[num_first:]
    length = period_length(config)
    num_periods = len(rest) // length
    split = num_periods * length
    return LayerPlan(layers[:num_first], rest[:length] if num_periods else (), num_periods, rest[split:])


def period_length(config: ModelConfig) -> int:
    """Layers after which attention and experts repeat."""
    return math.lcm(len(layer_pattern(config)), config.moe_every)


def layer_pattern(config: ModelConfig) -> tuple[LayerKind, ...]:
    """`config.layer_pattern`, or global attention alone where it is empty."""
    return config.layer_pattern if config.layer_pattern else ("global",)


def layer_kinds(config: ModelConfig) -> tuple[LayerKind, ...]:
    """The kind of attention of each layer, from the first to the last."""
    pattern = layer_pattern(config)
    return tuple(pattern[index % len(pattern)] for index in range(config.num_layers))


def planned_layers(config: ModelConfig) -> tuple[PlannedLayer, ...]:
    """What tells each layer apart, from the first to the last."""
    has_experts = lambda depth: config.num_experts is not None and (depth + 1) % config.moe_every == 0  # noqa: E731
    return tuple(PlannedLayer(kind, has_experts(depth)) for depth, kind in enumerate(layer_kinds(config)))


def layers_with_experts(config: ModelConfig) -> int:
    """The number of layers that have experts."""
    return 0 if config.num_experts is None else config.num_layers // config.moe_every


def layer_slots(config: ModelConfig) -> list[tuple[str, int]]:
    """(group, index within the group) of every layer, in order of depth."""
    return plan_layers(config).slots()
