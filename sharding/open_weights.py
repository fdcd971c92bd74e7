"""Weights as products need them: whole along the axes of the rows, with a place for their gradients."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from flaxmill.sharding.local_rows import gather
from flaxmill.sharding.rules import LogicalAxes


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OpenWeight:
    """A weight that was gathered before its layer runs, in place of what a device holds of the parameter."""

    whole: jax.Array
    """In the compute dtype. It takes no gradient."""
    receiver: jax.Array
    """As large, in float32. It takes the gradient, and its values are nobody's."""

    def __getitem__(self, index: Any) -> "OpenWeight":
        """Both arrays at an index, as an array has it."""
        return OpenWeight(self.whole[index], self.receiver[index])


class Operand(NamedTuple):
    """What a product does with a weight."""

    whole: jax.Array
    """It multiplies this, in the compute dtype."""
    receiver: jax.Array
    """It gives the gradient to this,"""
    axes: LogicalAxes
    """after `scatter` along these logical axes."""


def operand(weight: jax.Array | OpenWeight, axes: LogicalAxes, dtype: Any) -> Operand:
    """The operand of a product, from a device's part of a parameter with these logical axes, or from an open
    weight."""
    if isinstance(weight, OpenWeight):
        return Operand(weight.whole.astype(dtype), weight.receiver, (None,) * len(axes))
    return Operand(gather(weight, axes, dtype), weight, tuple(axes))
