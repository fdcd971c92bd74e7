"""Softmax over the logits of all pairs of queries and keys, the mix of values by it, and its gradient."""

# B batch, T query tokens, S key tokens, K key-value heads, G query heads for each of them, H head dim

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.sharding.rules import platform

MASKED = -1e30  # finite, so that a row without any key gives numbers and not NaN


class Pairs(NamedTuple):
    """What is known of pairs of tokens."""

    sees: jax.Array
    """bool [B,T,S]: the query may see the key."""
    bias: jax.Array | None = None
    """[K,G,T,S]: added to the scaled logits."""
    keep: jax.Array | None = None
    """bool [B,K,G,T,S]: dropout keeps the probability; None: it keeps all."""


class Mixing(NamedTuple):
    """What is known before the program runs."""

    scale: float
    share_kept: float = 1.0
    """Of the probabilities, by dropout; they are divided by it."""
    some_see_nothing: bool = False
    """A query may see no key at all."""


def mix_values(
    mixing: Mixing, q_BKGTH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, pairs: Pairs
) -> jax.Array:
    """[B,K,G,T,H]: values with softmax(scale * q k^T + bias) as weights (Vaswani et al. 2017, eq. 1)."""
    mix = _mix_by_hand if platform() == "cpu" else _mix
    return mix(mixing, q_BKGTH, k_BKSH, v_BKSH, pairs)


def _mix(mixing: Mixing, q_BKGTH: Any, k_BKSH: Any, v_BKSH: Any, pairs: Pairs) -> jax.Array:
    probs_BKGTS = jax.nn.softmax(_logits(mixing.scale, q_BKGTH, k_BKSH, pairs), axis=-1).astype(q_BKGTH.dtype)
    if pairs.keep is not None:
        probs_BKGTS = jnp.where(pairs.keep, probs_BKGTS / mixing.share_kept, 0)
    return jnp.einsum("BKGTS,BKSH->BKGTH", probs_BKGTS, v_BKSH)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mix_by_hand(mixing: Mixing, q_BKGTH: Any, k_BKSH: Any, v_BKSH: Any, pairs: Pairs) -> jax.Array:
    """The same with a gradient that XLA:CPU runs in fewer passes over the pairs than its own.

    Exponentials are divided by their sum once they have mixed the values, which are fewer numbers.
    """
    return _forward(mixing, q_BKGTH, k_BKSH, v_BKSH, pairs)[0]


def _forward(mixing: Mixing, q_BKGTH: Any, k_BKSH: Any, v_BKSH: Any, pairs: Pairs):
    logits_BKGTS = _logits(mixing.scale, q_BKGTH, k_BKSH, pairs)
    exps_BKGTS = jnp.exp(logits_BKGTS - logits_BKGTS.max(-1, keepdims=True))
    total_BKGT1 = exps_BKGTS.sum(-1, keepdims=True)
    exps_BKGTS = exps_BKGTS.astype(q_BKGTH.dtype)
    mixed_BKGTH = _product("BKGTS,BKSH->BKGTH", _kept(pairs, exps_BKGTS), v_BKSH)
    out_BKGTH = (mixed_BKGTH / (total_BKGT1 * mixing.share_kept)).astype(q_BKGTH.dtype)
    return out_BKGTH, (q_BKGTH, k_BKSH, v_BKSH, pairs, exps_BKGTS, total_BKGT1, out_BKGTH)


def _backward(mixing: Mixing, saved: Any, dout_BKGTH: jax.Array):
    q_BKGTH, k_BKSH, v_BKSH, pairs, exps_BKGTS, total_BKGT1, out_BKGTH = saved
    dtype = q_BKGTH.dtype
    g_BKGTH = dout_BKGTH / total_BKGT1
    # The products of probabilities and their gradients, summed over keys (Dao et al. 2022, eq. 4).
    delta_BKGT1 = (g_BKGTH * out_BKGTH).sum(-1, keepdims=True)
    g_BKGTH = (g_BKGTH / mixing.share_kept).astype(dtype)
    dprobs_BKGTS = _kept(pairs, _product("BKGTH,BKSH->BKGTS", g_BKGTH, v_BKSH))
    dlogits_BKGTS = exps_BKGTS * (dprobs_BKGTS - delta_BKGT1)
    if mixing.some_see_nothing:  # else masked exponentials are zero
        dlogits_BKGTS = jnp.where(pairs.sees[:, None, None], dlogits_BKGTS, 0)
    bias = pairs.bias
    dbias_KGTS = None if bias is None else dlogits_BKGTS.sum(0).astype(bias.dtype)
    dlogits_BKGTS = (dlogits_BKGTS * mixing.scale).astype(dtype)
    dq_BKGTH = _product("BKGTS,BKSH->BKGTH", dlogits_BKGTS, k_BKSH).astype(dtype)
    dk_BKSH = _sum_over_queries(q_BKGTH, dlogits_BKGTS)
    dv_BKSH = _sum_over_queries(g_BKGTH, _kept(pairs, exps_BKGTS))
    nothing: Any = None  # is the gradient of what is not a number
    return dq_BKGTH, dk_BKSH, dv_BKSH, Pairs(nothing, dbias_KGTS, nothing)


_mix_by_hand.defvjp(_forward, _backward)


def _logits(scale: float, q_BKGTH: jax.Array, k_BKSH: jax.Array, pairs: Pairs) -> jax.Array:
    logits_BKGTS = _product("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH) * scale
    if pairs.bias is not None:
        logits_BKGTS += pairs.bias
    return jnp.where(pairs.sees[:, None, None], logits_BKGTS, MASKED)


def _kept(pairs: Pairs, x_BKGTS: jax.Array) -> jax.Array:
    return x_BKGTS if pairs.keep is None else jnp.where(pairs.keep, x_BKGTS, 0)


def _sum_over_queries(x_BKGTH: jax.Array, weights_BKGTS: jax.Array) -> jax.Array:
    """[B,K,S,H]: x of all queries, with weights for each key."""
    # What XLA:CPU transposes for a product is then the vectors, and never the pairs.
    sums_BKHS = _product("BKGTH,BKGTS->BKHS", x_BKGTH, weights_BKGTS).astype(x_BKGTH.dtype)
    return jax.lax.optimization_barrier(sums_BKHS).swapaxes(-1, -2)


def _product(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(equation, x, y, preferred_element_type=sum_dtype(x))
