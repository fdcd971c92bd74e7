"""What a device does with its own tokens of rows that several devices share.

Inside `on_local_rows` a device may see a part of each row, along the mesh axis of `row_tokens`. Each part is
as long as the others. Where rows are whole, nothing here does anything.
"""

from typing import Any

import jax
import jax.numpy as jnp

from flaxmill.sharding.collectives import all_gather, device_sum, reduce_scatter
from flaxmill.sharding.rules import ACTIVATION_RULES


def num_parts() -> int:
    """The devices that share each row, if this program sees the part of one of them."""
    mesh, name = jax.sharding.get_abstract_mesh(), _axis()
    return mesh.shape[name] if name in mesh.manual_axes else 1


def places_in_row(num_tokens: int) -> jax.Array:
    """int32 [T]: which token of its row each token is, of parts that follow one another."""
    return _first_place(num_tokens) + jnp.arange(num_tokens, dtype=jnp.int32)


def take_part(x_BT: jax.Array, num_tokens: int) -> jax.Array:
    """This device's tokens [B,t,...] of what is computed for whole rows [B,T,...]."""
    if num_parts() == 1:
        return x_BT
    return jax.lax.dynamic_slice_in_dim(x_BT, _first_place(num_tokens), num_tokens, axis=1)


def join_parts(x_BT: jax.Array) -> jax.Array:
    """Whole rows [B,T,...] from the parts [B,t,...] of all devices, which follow one another. Their gradients
    are summed in float32."""
    return x_BT if num_parts() == 1 else _join(x_BT)


@jax.custom_vjp
def _join(x_BT: jax.Array) -> jax.Array:
    return all_gather(x_BT, _axis(), dim=1)


def _join_backward(saved: None, g_BT: jax.Array) -> tuple[jax.Array]:
    del saved
    wide_BT = g_BT.astype(jnp.promote_types(g_BT.dtype, jnp.float32))
    return (reduce_scatter(wide_BT, _axis(), dim=1).astype(g_BT.dtype),)


_join.defvjp(lambda x_BT: (_join(x_BT), None), _join_backward)


def own_part_of(x: jax.Array, dim: int) -> jax.Array:
    """This device's part along a dimension of what all that share a row have."""
    size = x.shape[dim] // num_parts()
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(_axis()) * size, size, dim)


def token_at(x_BT: jax.Array, places_B: jax.Array) -> jax.Array:
    """[B,...]: the entry of each row [B,T,...] at one of its places, on all devices that share the row."""
    num_tokens = x_BT.shape[1]
    local_B = places_B - _first_place(num_tokens)
    index_B = jnp.clip(local_B, 0, num_tokens - 1).reshape(-1, *(1,) * (x_BT.ndim - 1))
    picked = jnp.take_along_axis(x_BT, index_B, axis=1)[:, 0]
    if num_parts() == 1:
        return picked
    is_here_B = (local_B >= 0) & (local_B < num_tokens)
    return sum_parts(jnp.where(is_here_B.reshape(-1, *(1,) * (picked.ndim - 1)), picked, 0))


def first_token(x_BT: jax.Array) -> jax.Array:
    """[B,...]: the first entry of each row [B,T,...], on all devices that share the row."""
    return x_BT[:, 0] if num_parts() == 1 else token_at(x_BT, jnp.zeros(len(x_BT), jnp.int32))


def sum_parts(x: Any) -> Any:
    """Sums over this device's tokens of each row, added up over the whole rows."""
    return jax.tree.map(lambda x: device_sum(x, _axis()), x) if num_parts() > 1 else x


def greatest_part(x: jax.Array) -> jax.Array:
    """The greatest of what each part of a row gives."""
    return jax.lax.pmax(x, _axis()) if num_parts() > 1 else x


def share_of_row() -> float:
    """How much each device counts of a decision on a whole row, which all that share it make."""
    return 1 / num_parts()


def pass_on(x: Any) -> Any:
    """What the device of the part before this one has of these arrays; the first part follows the last."""
    size, name = num_parts(), _axis()
    following = [(part, (part + 1) % size) for part in range(size)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, name, following), x)


def _axis() -> str:
    name = ACTIVATION_RULES["row_tokens"]
    assert isinstance(name, str)
    return name


def _first_place(num_tokens: int) -> jax.Array | int:
    return jax.lax.axis_index(_axis()) * num_tokens if num_parts() > 1 else 0
