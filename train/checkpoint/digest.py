"""Digests of arrays, computed where the arrays live: to see that what is loaded is what was saved."""

import jax
import jax.numpy as jnp
import numpy as np

_LONG = 8  # elements of a dim that is summed over early


def compute_digests(arrays: dict[str, jax.Array]) -> dict[str, int]:
    """A number below 2**32 for each array, the same on every mesh, read back to the host.

    It is the sum modulo 2**32 of a scrambling, a different one at every position, of each element's bits:
    no change of a single element goes unseen, and of other changes about one in four billion does.
    """
    return {name: int(digest) for name, digest in jax.device_get(_digest_all(arrays)).items()}


@jax.jit  # one program: many small ones with collectives in flight at once can starve a CPU's threads
def _digest_all(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: digest_array(x) for name, x in arrays.items()}


def digest_array(x: jax.Array) -> jax.Array:
    """The uint32 digest of one array, for use inside a jitted function."""
    bits = _bits(x)
    # Positions come from one iota per dim, not from a reshape: a reshape would gather a sharded array.
    position = jnp.zeros(bits.shape, jnp.uint32)
    stride = 1
    for dim in reversed(range(bits.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, dim) * np.uint32(stride % 2**32)
        stride *= bits.shape[dim]
    # Scrambled before they are summed: else two flipped signs would cancel.
    return _sum_in_lanes(_scramble(bits ^ (position * np.uint32(0x9E3779B1))))


def _sum_in_lanes(words: jax.Array) -> jax.Array:
    """The sum modulo 2**32, one dim after another, the last of them at the end.

    A CPU adds rows to rows with vector instructions and on all its cores; one sum over everything, into which
    XLA would join these, is a loop on one core. It halves the time.
    """
    while words.ndim > 1:
        # What is left in between is the smaller, the longer the dim that goes.
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
