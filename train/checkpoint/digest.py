"""Digests of arrays, computed where the arrays live, to see that what is loaded is what was saved."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.sharding.memory import fetch

_LONG = 8  # elements of a dim that is summed over early


def compute_digests(arrays: dict[str, jax.Array]) -> dict[str, int]:
    """A number below 2**32 for each array, the same on every mesh, read back to the host.

    Each element's bits are scrambled, differently at every position, and then summed modulo 2**32. No change
    of a single element goes unseen; about one in four billion of other changes does.
    """
    return {name: int(digest) for name, digest in jax.device_get(_digest_all(arrays)).items()}


def compile_digests(arrays: dict[str, Any]) -> None:
    """Compile what `compute_digests` calls for arrays of these shapes, dtypes and shardings."""
    _digest_all.lower(arrays).compile()


@jax.jit  # one program: many small ones with collectives in flight at once can starve a CPU's threads
def _digest_all(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: digest_array(x) for name, x in fetch(arrays).items()}


def digest_array(x: jax.Array) -> jax.Array:
    """The uint32 digest of one array, for use inside a jitted function."""
    bits = _bits(x)
    # Positions come from one iota per dim, not from a reshape: a reshape would gather a sharded array.
    position = jnp.zeros(bits.shape, jnp.uint32)
    stride = 1
    for dim in reversed(range(bits.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, dim) * np.uint32(stride % 2**32)
        stride *= bits.shape[dim]
    # Scramble before summing: otherwise two flipped signs would cancel.
    return _sum_in_lanes(_scramble(bits ^ (position * np.uint32(0x9E3779B1))))


def _sum_in_lanes(words: jax.Array) -> jax.Array:
    """The sum modulo 2**32, taken one dim after another, with the last dim at the end.

    A CPU adds rows to rows with vector instructions and on all its cores. XLA would join these sums into one
    sum over everything, which is a loop on one core. Keeping them apart halves the time.
    """
    while words.ndim > 1:
        # The longer the dim that is summed away, the less is left in between.
        dim = next((dim for dim in range(words.ndim - 1) if words.shape[dim] >= _LONG), 0)
        words = jax.lax.optimization_barrier(jnp.sum(words, axis=dim, dtype=jnp.uint32))
    return jnp.sum(words, dtype=jnp.uint32)


def _bits(x: jax.Array) -> jax.Array:
    """The elements' bits as uint32; 64-bit elements get a last dim of two words."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    word = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)


def _scramble(x: jax.Array) -> jax.Array:
    """A permutation of the 32-bit numbers without visible pattern (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
