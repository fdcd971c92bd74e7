"""Which token comes next: the likeliest, or one drawn from the distribution that filters leave."""

# B batch, V vocab, E end tokens, S suppressed tokens

from typing import NamedTuple

import jax
import jax.numpy as jnp

NEVER = -jnp.inf  # a logit whose token is never drawn


class Filters(NamedTuple):
    """The steps applied to the logits, in this order; None leaves a step out. Numbers are traced: another
    value does not compile again."""

    repetition_penalty: float | jax.Array | None = None
    temperature: float | jax.Array | None = None
    top_k: float | jax.Array | None = None
    top_p: float | jax.Array | None = None
    min_p: float | jax.Array | None = None


def penalize_repetition(scores_BV: jax.Array, seen_BV: jax.Array, penalty: jax.Array | float) -> jax.Array:
    """Divide positive scores of tokens seen before by the penalty, multiply negative ones (Keskar et al.
    2019, 4.1)."""
    penalized_BV = jnp.where(scores_BV < 0, scores_BV * penalty, scores_BV / penalty)
    return jnp.where(seen_BV, penalized_BV, scores_BV)


def filter_logits(logits_BV: jax.Array, filters: Filters) -> jax.Array:
    """Logits of the distribution to draw from: temperature, then the `top_k` likeliest tokens, then of these
    the fewest whose probabilities reach `top_p` (Holtzman et al. 2020), then of these the tokens at least
    `min_p` times as likely as the likeliest (Nguyen et al. 2025)."""
    assert filters.temperature is not None
    logits_BV = logits_BV / filters.temperature
    if filters.top_k is not None:
        logits_BV = _keep_largest(logits_BV, jnp.ones_like(logits_BV), filters.top_k)
    if filters.top_p is not None:
        logits_BV = _keep_largest(logits_BV, jax.nn.softmax(logits_BV), filters.top_p)
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


def _keep_largest(logits_BV: jax.Array, weights_BV: jax.Array, most: jax.Array | float) -> jax.Array:
    """Set a logit to NEVER if all larger logits of its row weigh `most` or more together.

    The border is found by halving the range of float32's bits: on a CPU, sorting takes ten times as long as
    these 32 passes.
    """
    bits_BV = jax.lax.bitcast_convert_type(logits_BV.astype(jnp.float32), jnp.int32)
    ranks_BV = jnp.where(bits_BV < 0, bits_BV ^ 0x7FFFFFFF, bits_BV)  # integers in the order of the numbers
    least_B1 = jnp.full((logits_BV.shape[0], 1), -(2**31), jnp.int32)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low_B1, high_B1 = bounds
        middle_B1 = (low_B1 & high_B1) + ((low_B1 ^ high_B1) >> 1)  # their mean, without overflow
        above_B1 = jnp.where(ranks_BV > middle_B1, weights_BV, 0).sum(-1, keepdims=True)
        fits_B1 = above_B1 < most
        return jnp.where(fits_B1, low_B1, middle_B1 + 1), jnp.where(fits_B1, middle_B1, high_B1)

    border_B1 = jax.lax.fori_loop(0, 32, halve, (least_B1, jnp.full_like(least_B1, 2**31 - 1)))[1]
    return jnp.where(ranks_BV < border_B1, NEVER, logits_BV)
