"""The product of one row with a matrix of 2 or 1 bytes a number, which is what decoding on a CPU waits for.

XLA:CPU has no such product: it widens the whole matrix in memory first, and because weights do not change in
a loop over tokens, it does so before the loop. All weights then stand in memory in float32 as well, and are
read so at every token. Here numbers are widened in registers, as they are read. bfloat16 comes as its bits,
in uint16, since XLA:CPU widens bfloat16 for whatever else it does with it, too.
"""

# K inputs, F outputs, C chunks of K

import functools
import operator

import jax
import jax.numpy as jnp

_CHUNK = 16
"""Inputs whose products are summed in registers. From 8 there are twice as many sums to write; with 32 there
are too few registers."""


def fits_row_product(x_MK: jax.Array) -> bool:
    """Whether `row_product` takes these rows."""
    return x_MK.shape[0] == 1 and x_MK.shape[1] % _CHUNK == 0


def row_product(x_1K: jax.Array, kernel: jax.Array) -> jax.Array:
    """float32 [1,F]: one row times a matrix that is read once.

    Args:
      kernel: [*in_dims, *out_dims], which are K and F in all; int8, or uint16 with the bits of bfloat16.
    """
    C = x_1K.shape[1] // _CHUNK
    # Together, so that the weights seem to change with x, and what is computed from them stays in the loop.
    x_1K, kernel = jax.lax.optimization_barrier((x_1K.astype(jnp.float32), kernel))
    x_CI, w_CIF = x_1K.reshape(C, _CHUNK), kernel.reshape(C, _CHUNK, -1)
    terms = (x_CI[:, i, None] * _widened(w_CIF[:, i]) for i in range(_CHUNK))
    # Apart, since XLA would otherwise sum a chunk again for each use of the sum.
    sums_CF = jax.lax.optimization_barrier(functools.reduce(operator.add, terms))
    return jax.lax.optimization_barrier(jnp.ones((1, C), jnp.float32) @ sums_CF)


def as_bits(w: jax.Array) -> jax.Array:
    """uint16: the bits of bfloat16 numbers."""
    return jax.lax.bitcast_convert_type(w.astype(jnp.bfloat16), jnp.uint16)


def as_bfloat16(w: jax.Array) -> jax.Array:
    """The numbers of int8, all of which bfloat16 has, or of bits of bfloat16."""
    return w.astype(jnp.bfloat16) if w.dtype == jnp.int8 else jax.lax.bitcast_convert_type(w, jnp.bfloat16)


def _widened(w: jax.Array) -> jax.Array:
    """The same in float32, whose upper half is bfloat16."""
    if w.dtype == jnp.int8:
        return w.astype(jnp.float32)
    return jax.lax.bitcast_convert_type(w.astype(jnp.uint32) << 16, jnp.float32)
