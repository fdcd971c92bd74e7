"""Which token comes next: the likeliest, or one drawn from the distribution that filters leave."""

# B batch, V vocab, E end tokens, S suppressed tokens

from typing import NamedTuple

import jax
import jax.numpy as jnp

NEVER = -jnp.inf  # a logit whose token is never drawn


class Filters(NamedTuple):
    """What is done to the logits, in this order; None leaves a step out. Numbers are traced: another value
    compiles nothing anew, but whether there is one does, and so does top_k."""

    repetition_penalty: float | jax.Array | None = None
    temperature: float | jax.Array | None = None
    top_p: float | jax.Array | None = None
    min_p: float | jax.Array | None = None


def penalize_repetition(scores_BV: jax.Array, seen_BV: jax.Array, penalty: jax.Array | float) -> jax.Array:
    """Divide positive scores of tokens seen before by the penalty, multiply negative ones (Keskar et al.
    2019, 4.1)."""
    penalized_BV = jnp.where(scores_BV < 0, scores_BV * penalty, scores_BV / penalty)
    return jnp.where(seen_BV, penalized_BV, scores_BV)


def filter_logits(logits_BV: jax.Array, filters: Filters, top_k: int | None) -> jax.Array:
    """Logits of the distribution to draw from: temperature, then the `top_k` likeliest tokens, then of these
    the fewest whose probabilities reach `top_p` (Holtzman et al. 2020), then of these the tokens at least
    `min_p` times as likely as the likeliest (Nguyen et al. 2025)."""
    assert filters.temperature is not None
    logits_BV = logits_BV / filters.temperature
    if top_k is not None and top_k < logits_BV.shape[-1]:
        least_B1 = jax.lax.top_k(logits_BV, top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV < least_B1, NEVER, logits_BV)
    if filters.top_p is not None:
        sorted_BV = -jnp.sort(-logits_BV, axis=-1)
        probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
        kept_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV < filters.top_p
        least_B1 = jnp.min(jnp.where(kept_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV < least_B1, NEVER, logits_BV)
    if filters.min_p is not None:
        least_B1 = logits_BV.max(-1, keepdims=True) + jnp.log(filters.min_p)
        logits_BV = jnp.where(logits_BV < least_B1, NEVER, logits_BV)
    return logits_BV


def draw_tokens(logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
    """int32 [B]: one token of each row, each by its own key."""
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def only_end_tokens(logits_BV: jax.Array, end_E: jax.Array) -> jax.Array:
    """Logits that leave no choice but an end token."""
    is_end_V = jnp.zeros(logits_BV.shape[-1], bool).at[end_E].set(True)
    return jnp.where(is_end_V, 0.0, NEVER)


def without_tokens(logits_BV: jax.Array, suppressed_S: jax.Array) -> jax.Array:
    """Logits under which these tokens are never chosen."""
    return logits_BV.at[:, suppressed_S].set(NEVER)
