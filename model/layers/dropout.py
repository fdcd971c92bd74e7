"""Dropout with explicit keys, one for each row: no key, no dropout.

A row's masks depend on its own key alone, so they are the same whatever rows a device or a microbatch holds.
"""

import jax
import jax.numpy as jnp

from flaxmill.sharding.local_tokens import num_parts, take_part
from flaxmill.sharding.rules import platform

_VALUES = 2**16  # of the random number that says whether an entry is kept


def dropout(x: jax.Array, rate: float, keys_B: jax.Array | None) -> jax.Array:
    """Zero entries of x with probability `rate`, and scale the rest to keep the mean.

    x is [B,T,D], or has no tokens that devices share: [B,D].

    Srivastava et al. 2014.
    """
    if rate == 0 or keys_B is None:
        return x
    sizes = x.shape[1:]
    if has_tokens := x.ndim == 3:
        sizes = (num_parts() * sizes[0], *sizes[1:])  # a device draws for whole rows, and keeps its part
    keep = keep_mask(keys_B, rate, sizes)
    keep = take_part(keep, x.shape[1]) if has_tokens else keep
    return jnp.where(keep, x / share_kept(rate), 0)


def keep_mask(keys_B: jax.Array, rate: float, sizes: tuple[int, ...]) -> jax.Array:
    """bool [B,*sizes], False with probability `rate`, to the next 1 / 65536.

    An entry takes half a word of random bits; on TPU a word, since a TPU is slower at moving the halves to
    neighbouring entries than at making twice the bits.
    """
    *others, last = sizes

    def of_row(key: jax.Array) -> jax.Array:
        if platform() == "tpu":
            keep = jax.random.bits(key, sizes, jnp.uint16) >= _dropped_values(rate)
            return jax.lax.optimization_barrier(keep)  # else each of its readers makes it again
        words = jax.random.bits(key, (*others, -(-last // 2)), jnp.uint32)
        halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(*others, -1)[..., :last]
        return halves >= _dropped_values(rate)

    return jax.vmap(of_row)(keys_B)


def share_kept(rate: float) -> float:
    """The probability with which `keep_mask` is True."""
    return 1 - _dropped_values(rate) / _VALUES


def _dropped_values(rate: float) -> int:
    return min(round(rate * _VALUES), _VALUES - 1)


def row_keys(key: jax.Array, num_rows: int) -> jax.Array:
    """A key for each of the rows [B]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_rows))


def split_keys(keys_B: jax.Array | None, num: int) -> tuple[jax.Array | None, ...]:
    """`num` times independent keys of the rows, or as many None."""
    return (None,) * num if keys_B is None else tuple(stacked_keys(keys_B, num))


def stacked_keys(keys_B: jax.Array, num: int) -> jax.Array:
    """[num,B]: independent keys of the rows."""
    return jax.vmap(lambda key: jax.random.split(key, num), out_axes=1)(keys_B)
