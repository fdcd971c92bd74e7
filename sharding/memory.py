"""Which memory an array lives in: its device's own, or that of the host."""

from typing import Any

import jax

HOST_MEMORY = "pinned_host"
"""The memory for what is offloaded, as JAX calls it."""


def is_offloaded(x: jax.Array) -> bool:
    """Whether an array, traced or not, lives in the memory of the host."""
    return jax.typeof(x).memory_space == jax.memory.Space.Host


def fetch(arrays: Any) -> Any:
    """The arrays in the devices' own memory, for use inside a jitted function; those that are there stay."""
    return jax.tree.map(
        lambda x: jax.device_put(x, jax.memory.Space.Device) if is_offloaded(x) else x, arrays
    )


def put_where(old: jax.Array, new: jax.Array) -> jax.Array:
    """`new`, which a device has, in the memory that `old` lives in."""
    return jax.device_put(new, jax.memory.Space.Host) if is_offloaded(old) else new
