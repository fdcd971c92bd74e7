"""Dropout with explicit keys: no key, no dropout."""

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero entries with probability `rate` and scale the rest to keep the mean (Srivastava et al. 2014)."""
    if rate == 0 or key is None:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)


def split_key(key: jax.Array | None, num: int) -> tuple[jax.Array | None, ...]:
    """`num` independent keys, or as many None."""
    return (None,) * num if key is None else tuple(jax.random.split(key, num))
