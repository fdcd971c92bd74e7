"""How a stack of layers is cut for compiling: an unrolled start, repeated periods, an unrolled end.

Layers of one group are stacked along a leading dimension of their parameters. A period is one round of the
attention pattern (GPT-Neo: global, local), and one period is compiled however many there are.
"""

from typing import NamedTuple

from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import LayerKind

LAYER_GROUPS = ("first_layers", "layers", "last_layers")
"""Keys of params below which every array has a leading layer dimension."""


class LayerPlan(NamedTuple):
    """Attention kinds of the first layers, one period (run `num_periods` times) and the last layers."""

    first: tuple[LayerKind, ...]
    period: tuple[LayerKind, ...]
    num_periods: int
    last: tuple[LayerKind, ...]

    def sizes(self) -> dict[str, int]:
        """Layers of each group, in order of depth."""
        counts = len(self.first), len(self.period) * self.num_periods, len(self.last)
        return dict(zip(LAYER_GROUPS, counts, strict=True))


def plan_layers(config: ModelConfig) -> LayerPlan:
    """Cut the stack so that all that repeats is in periods."""
    pattern, kinds = layer_pattern(config), layer_kinds(config)
    num_first = 0 if config.first_attention_norm else 1  # a layer with other parts cannot be stacked
    rest = kinds[num_first:]
    num_periods = len(rest) // len(pattern)
    split = num_periods * len(pattern)
    return LayerPlan(
        kinds[:num_first], rest[: len(pattern)] if num_periods else (), num_periods, rest[split:]
    )


def layer_pattern(config: ModelConfig) -> tuple[LayerKind, ...]:
    """`config.layer_pattern`, or global attention alone where it is empty."""
    return config.layer_pattern if config.layer_pattern else ("global",)


def layer_kinds(config: ModelConfig) -> tuple[LayerKind, ...]:
    """The kind of each layer, from the first to the last."""
    pattern = layer_pattern(config)
    return tuple(pattern[index % len(pattern)] for index in range(config.num_layers))


def layer_slots(config: ModelConfig) -> list[tuple[str, int]]:
    """(group, index within the group) of every layer, in order of depth."""
    return [(group, index) for group, size in plan_layers(config).sizes().items() for index in range(size)]
