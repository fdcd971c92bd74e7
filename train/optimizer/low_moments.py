"""Moments kept in bfloat16, half of their memory, rounded at random so that small changes are not lost.

A mean of squares with beta2=0.999 moves by a thousandth in a step, and neighbouring bfloat16 numbers are
up to 2^-7 apart: rounding to the nearest would leave it where it is for ever. Stochastic rounding goes up
with the probability that keeps the mean exact (Gupta et al. 2015, 3.1). A rounding is off by less than 2^-7.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

_SEED = 0x6D6F6D  # its own stream: a run's seed draws nothing here, so that the optimizer needs none
_LOW_BITS = 16


class LowMomentsState(NamedTuple):
    """The number of updates, and the inner state with bfloat16 in place of float32 arrays."""

    count: jax.Array
    inner: Any


def low_moments(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`inner` with its arrays of float32 kept in bfloat16; it computes in float32.

    `update` takes `draw`, a number that tells apart the calls of one update.
    """

    def init(params: optax.Params) -> LowMomentsState:
        return LowMomentsState(jnp.int32(0), jax.tree.map(_narrow, inner.init(params)))

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        draw: jax.Array | int = 0,
        **_: Any,
    ) -> tuple[optax.Updates, LowMomentsState]:
        assert isinstance(state, LowMomentsState)
        updates, wide = inner.update(updates, jax.tree.map(_widen, state.inner), params)
        leaves, structure = jax.tree.flatten(wide)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(_SEED), state.count), draw)
        keys = jax.random.split(key, len(leaves))
        rounded = [_round(leaf, key) for leaf, key in zip(leaves, keys, strict=True)]
        return updates, LowMomentsState(state.count + 1, jax.tree.unflatten(structure, rounded))

    return optax.GradientTransformationExtraArgs(init, update)


def round_stochastically(x: jax.Array, key: jax.Array) -> jax.Array:
    """Each float32 number as one of its two bfloat16 neighbours, drawn so that its mean is the number."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    drawn = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    cut = ((bits + drawn) >> _LOW_BITS).astype(jnp.uint16)
    low = jax.lax.bitcast_convert_type(cut, jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), low, x.astype(jnp.bfloat16))


def _is_moment(x: jax.Array) -> bool:
    return x.dtype == jnp.float32 and x.ndim > 0


def _narrow(x: jax.Array) -> jax.Array:
    return x.astype(jnp.bfloat16) if _is_moment(x) else x


def _widen(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x


def _round(x: jax.Array, key: jax.Array) -> jax.Array:
    return round_stochastically(x, key) if _is_moment(x) else x
