"""Keeps a layer's keys and values of the tokens it has read, and lets the next token attend to them."""

# B batch, T prompt tokens, S cache slots, N heads, K key-value heads, G = N / K, H head dim

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxmill.model.layers.all_pairs import MASKED
from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.sharding.rules import constrain, platform


class LayerCache(NamedTuple):
    """Keys and values [B,K,S,H] of a layer: token number i of a row is in slot i mod S. On CPUs they are
    float32, elsewhere in the compute dtype.

    In a layer that sees everything, S is the most tokens that a row will ever hold. In a local layer S is the
    window, and each new token takes the slot of the token that left the window.
    """

    keys: jax.Array
    values: jax.Array


def fill_cache(k_BTKH: jax.Array, v_BTKH: jax.Array, num_slots: int) -> LayerCache:
    """The cache of tokens 0..T-1, or of the last of them that fit."""
    return LayerCache(*(_to_slots(x_BTKH, num_slots) for x_BTKH in (k_BTKH, v_BTKH)))


def append_to_cache(cache: LayerCache, k_B1KH: jax.Array, v_B1KH: jax.Array, index: jax.Array) -> LayerCache:
    """The cache with token number `index` added."""
    slot = index % cache.keys.shape[2]

    def write(old_BKSH: jax.Array, new_B1KH: jax.Array) -> jax.Array:
        new_BK1H = new_B1KH.swapaxes(1, 2).astype(old_BKSH.dtype)
        return _held(_written(jax.lax.dynamic_update_slice(old_BKSH, new_BK1H, (0, 0, slot, 0))))

    return LayerCache(write(cache.keys, k_B1KH), write(cache.values, v_B1KH))


def attend_to_cache(
    q_B1NH: jax.Array,
    cache: LayerCache,
    *,
    index: jax.Array,
    first_B: jax.Array,
    scale: float,
    window: int | None = None,
    bias_NS: jax.Array | None = None,
) -> jax.Array:
    """Causal softmax attention of token number `index`, which the cache holds already; softmax in float32.

    Args:
      first_B: number of the first token of each row; tokens before it are padding.
      window: the token sees itself and window - 1 before it.
      bias_NS: bias of the logits by distance, 0 first.

    Returns: [B,1,N,H] in the dtype of the queries.
    """
    B, _, N, H = q_B1NH.shape
    K = cache.keys.shape[1]
    q_BKGH = q_B1NH.reshape(B, K, N // K, H).astype(cache.keys.dtype)
    logits_BKGS = jnp.einsum("BKGH,BKSH->BKGS", q_BKGH, cache.keys, preferred_element_type=sum_dtype(q_B1NH))
    logits_BKGS = logits_BKGS * scale
    distance_S = _distances(index, cache.keys.shape[2])
    if bias_NS is not None:
        logits_BKGS += bias_NS[:, distance_S].reshape(K, N // K, -1)
    visible_BS = index - distance_S >= first_B[:, None]
    if window is not None:
        visible_BS &= distance_S < window
    logits_BKGS = jnp.where(visible_BS[:, None, None], logits_BKGS, MASKED)
    probs_BKGS = jax.nn.softmax(logits_BKGS, axis=-1).astype(cache.values.dtype)
    mixed_BKGH = jnp.einsum("BKGS,BKSH->BKGH", probs_BKGS, cache.values)
    return mixed_BKGH.reshape(B, 1, N, H).astype(q_B1NH.dtype)


def _distances(index: jax.Array, num_slots: int) -> jax.Array:
    """The distance from each slot's token to token number `index`; more than `index`: the slot is empty."""
    return (index - jnp.arange(num_slots)) % num_slots


def _to_slots(x_BTKH: jax.Array, num_slots: int) -> jax.Array:
    x_BKTH, num_tokens = x_BTKH.swapaxes(1, 2), x_BTKH.shape[1]
    if platform() == "cpu":  # XLA:CPU would widen all of a bfloat16 cache at every token
        x_BKTH = x_BKTH.astype(sum_dtype(x_BKTH))
    if num_tokens <= num_slots:
        return _held(jnp.pad(x_BKTH, ((0, 0), (0, 0), (0, num_slots - num_tokens), (0, 0))))
    return _held(jnp.roll(x_BKTH[:, :, -num_slots:], num_tokens % num_slots, axis=2))


def _written(x: jax.Array) -> jax.Array:
    """x as an array of its own: XLA:CPU would write the token once for the cache and once for attention, and
    copy all of the cache for that. As bits, since XLA would look through a barrier of numbers."""
    if platform() != "cpu" or x.dtype != jnp.float32:
        return x
    bits = jax.lax.optimization_barrier(jax.lax.bitcast_convert_type(x, jnp.uint32))
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _held(x_BKSH: jax.Array) -> jax.Array:
    return constrain(x_BKSH, "batch", "kv_heads", None, "head_dim")
