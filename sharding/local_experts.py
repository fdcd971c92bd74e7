"""What a device does with its own experts, for its own rows and those of other devices.

Along the mesh axis of `experts` each device has other rows, and holds other experts. A program that sees one
device's part along it sends rows to the experts, or asks for all rows of the group. Elsewhere every device
has all experts, and nothing here does anything.
"""

import jax
import jax.numpy as jnp

from flaxmill.sharding.collectives import all_to_all, rows_of_all, sum_of_own_rows
from flaxmill.sharding.rules import PARAMETER_RULES


def num_groups() -> int:
    """The devices that divide the experts, if this program sees the part of one of them."""
    mesh, name = jax.sharding.get_abstract_mesh(), _axis()
    return mesh.shape[name] if name in mesh.manual_axes else 1


def own_choices(experts: jax.Array, num_experts: int) -> jax.Array:
    """The numbers of experts as this device counts its `num_experts`; those of others are `num_experts`."""
    own = experts - jax.lax.axis_index(_axis()) * num_experts
    return jnp.where((own >= 0) & (own < num_experts), own, num_experts)


def gather_rows(x_B: jax.Array) -> jax.Array:
    """[G*B,...]: the rows [B,...] of all devices of the group."""
    return rows_of_all(x_B, _axis())


def sum_rows(x_B: jax.Array) -> jax.Array:
    """[B,...]: this device's own rows in the sum of what each device of the group has for all [G*B,...]."""
    return sum_of_own_rows(x_B, _axis())


def exchange_parts(x_S: jax.Array) -> jax.Array:
    """[S,...]: an array of one part for each device of the group in their order, with what each of them has
    for this one in its place."""
    return all_to_all(x_S, _axis(), split=0, join=0)


def _axis() -> str:
    name = PARAMETER_RULES["experts"]
    assert isinstance(name, str)
    return name
