"""Dropout with explicit keys, one for each row: no key, no dropout.

A row's masks depend on its own key alone, so they are the same whatever rows a device or a microbatch holds.
"""

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, rate: float, keys_B: jax.Array | None) -> jax.Array:
    """Zero entries of x [B,...] with probability `rate`, and scale the rest to keep the mean.

    Srivastava et al. 2014.
    """
    if rate == 0 or keys_B is None:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys_B)
    return jnp.where(keep, x / (1 - rate), 0)


def row_keys(key: jax.Array, num_rows: int) -> jax.Array:
    """A key for each of the rows [B]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_rows))


def split_keys(keys_B: jax.Array | None, num: int) -> tuple[jax.Array | None, ...]:
    """`num` times independent keys of the rows, or as many None."""
    return (None,) * num if keys_B is None else tuple(stacked_keys(keys_B, num))


def stacked_keys(keys_B: jax.Array, num: int) -> jax.Array:
    """[num,B]: independent keys of the rows."""
    return jax.vmap(lambda key: jax.random.split(key, num), out_axes=1)(keys_B)
