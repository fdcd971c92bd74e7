"""Beam search for the likeliest texts; whole texts are kept apart from texts that still grow."""

# B batch, W beams, K candidates, M new tokens, V vocab

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from flaxmill.model.generation.cached_model import (
    Cache,
    EncodedSource,
    read_prompt,
    read_token,
)
from flaxmill.model.generation.token_loop import (
    NO_TOKEN,
    Rules,
    adjust_scores,
    repeat_cache,
    repeat_rows,
    tokens_seen,
)
from flaxmill.model.generation.unrolled_model import UnrolledModel

NONE = -1e9  # the score of a beam that does not exist


class Beams(NamedTuple):
    """W texts of each row: int32 [B,W,M] tokens, float32 [B,W] scores."""

    tokens: jax.Array
    scores: jax.Array


class Search(NamedTuple):
    """The state of the search."""

    cache: Cache
    seen: jax.Array | None
    """bool [B*W,V]."""
    growing: Beams
    """Scores are sums of log-probabilities."""
    whole: Beams
    """Scores are divided by the length, to the power of the length penalty."""
    is_whole: jax.Array
    """bool [B,W]: which of `whole` are texts."""
    is_open: jax.Array
    """bool [B]: whether a growing text may still displace a whole one."""
    step: jax.Array
    """int32 []: tokens chosen so far."""


@functools.partial(jax.jit, static_argnames=("num_slots", "num_beams", "num_ends", "ending"))
def search_beams(
    model: UnrolledModel,
    tokens_BP: jax.Array,
    first_B: jax.Array,
    source: EncodedSource | None,
    rules: Rules,
    divisors_M: jax.Array,
    *,
    num_slots: int,
    num_beams: int,
    num_ends: int,
    ending: Literal["first", "likely", "never"],
) -> Beams:
    """The `num_beams` best texts of each prompt, best first; `NO_TOKEN` follows the end of each.

    Args:
      divisors_M: divisors of the scores of texts of 1..M tokens; M is also the most tokens of a text.
      num_ends: how many end tokens the rules have.
      ending: as in GenerationConfig.early_stopping.
    """
    B, W, M = tokens_BP.shape[0], num_beams, divisors_M.size
    logits_BV, cache = read_prompt(model, tokens_BP, first_B, num_slots, source)
    seen = None
    if rules.filters.repetition_penalty is not None:
        seen = repeat_rows(tokens_seen(tokens_BP, first_B, logits_BV.shape[-1]), W)
    empty_BWM = jnp.full((B, W, M), NO_TOKEN)
    growing = Beams(empty_BWM, jnp.full((B, W), NONE).at[:, 0].set(0.0))
    whole = Beams(empty_BWM, jnp.full((B, W), NONE))
    nothing = jnp.zeros((B, W), bool)
    state = Search(repeat_cache(cache, W), seen, growing, whole, nothing, ~nothing[:, 0], jnp.int32(0))
    rules = rules._replace(limits=repeat_rows(rules.limits, W))
    source = None if source is None else jax.tree.map(lambda x: repeat_rows(x, W), source)
    grow = functools.partial(_grow, rules=rules, divisors_M=divisors_M, num_ends=num_ends, ending=ending)

    def step(state: Search) -> Search:
        newest_BW = jax.lax.dynamic_index_in_dim(state.growing.tokens, state.step - 1, 2, keepdims=False)
        logits, cache = read_token(model, newest_BW.reshape(-1), state.cache, source)
        return grow(state._replace(cache=cache), logits)

    def goes_on(state: Search) -> jax.Array:
        is_full = state.is_whole.all() & (ending == "first")
        return (state.step < M) & state.is_open.any() & ~is_full

    return jax.lax.while_loop(goes_on, step, grow(state, repeat_rows(logits_BV, W))).whole


def _grow(
    state: Search, logits: jax.Array, *, rules: Rules, divisors_M: jax.Array, num_ends: int, ending: str
) -> Search:
    """Grow every beam by one token: the best continuations go on, texts that end are kept as whole."""
    B, W = state.growing.scores.shape
    V = logits.shape[-1]
    # Enough candidates that W of them go on even if every end token of every beam is among them.
    num_candidates = min(max(2, 1 + num_ends) * W, W * V)
    scores = adjust_scores(jax.nn.log_softmax(logits), rules, state.seen, state.step)
    scores_BWV = scores.reshape(B, W, V) + state.growing.scores[..., None]
    scores_BK, places_BK = jax.lax.top_k(scores_BWV.reshape(B, W * V), num_candidates)
    parents_BK, chosen_BK = places_BK // V, (places_BK % V).astype(jnp.int32)
    tokens_BKM = _pick(state.growing.tokens, parents_BK).at[:, :, state.step].set(chosen_BK)
    limits_B = rules.limits.reshape(B, W)[:, 0]
    ends_BK = jnp.isin(chosen_BK, rules.end) | (state.step + 1 >= limits_B)[:, None]

    growing_scores_BW, kept_BW = jax.lax.top_k(scores_BK + NONE * ends_BK, W)
    growing = Beams(_pick(tokens_BKM, kept_BW), growing_scores_BW)
    parents_BW = jnp.take_along_axis(parents_BK, kept_BW, 1)
    rows = (jnp.arange(B)[:, None] * W + parents_BW).reshape(-1)
    layers = jax.tree.map(lambda x: x[rows], state.cache.layers)
    seen = state.seen
    if seen is not None:
        chosen = jnp.take_along_axis(chosen_BK, kept_BW, 1).reshape(-1)
        seen = seen[rows].at[jnp.arange(B * W), chosen].set(True)

    # Only the best W candidates may end: the rest is there so that W can go on.
    ends_BK &= jnp.arange(num_candidates) < W
    is_shut_B = ~state.is_open | (state.is_whole.all(1) & (ending == "first"))
    candidates = Beams(
        tokens_BKM, scores_BK / divisors_M[state.step] + NONE * (~ends_BK + is_shut_B[:, None])
    )
    whole, is_whole_BW = _best(state.whole, state.is_whole, candidates, ends_BK, W)
    # The score that a growing text may reach; where length is rewarded, at its greatest possible length.
    grows = (ending == "never") & (divisors_M[-1] > 1)
    hoped_B = growing.scores[:, 0] / divisors_M[jnp.where(grows, limits_B - 1, state.step)]
    worst_B = jnp.where(is_whole_BW.all(1), whole.scores.min(1), NONE)
    is_open_B = state.is_open & (hoped_B > worst_B)
    cache = state.cache._replace(layers=layers)
    return Search(cache, seen, growing, whole, is_whole_BW, is_open_B, state.step + 1)


def _best(
    whole: Beams, is_whole_BW: jax.Array, candidates: Beams, ends_BK: jax.Array, num_beams: int
) -> tuple[Beams, jax.Array]:
    """The best of the whole texts and the texts that have just ended, and which of them are texts."""
    scores_BW, best_BW = jax.lax.top_k(jnp.concatenate([whole.scores, candidates.scores], 1), num_beams)
    tokens_BWM = _pick(jnp.concatenate([whole.tokens, candidates.tokens], 1), best_BW)
    is_whole_BW = jnp.take_along_axis(jnp.concatenate([is_whole_BW, ends_BK], 1), best_BW, 1)
    return Beams(tokens_BWM, scores_BW), is_whole_BW


def _pick(x_BKM: jax.Array, which_BW: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_BKM, which_BW[..., None], axis=1)
