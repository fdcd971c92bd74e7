"""The compiled loops that decode token by token: each step reads a token and chooses the next."""

# B batch, P prompt tokens, C steps of a chunk, V vocab, E end tokens

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxmill.model.generation.cached_model import (
    Cache,
    EncodedSource,
    read_prompt,
    read_token,
)
from flaxmill.model.generation.sampling import (
    Filters,
    draw_tokens,
    filter_logits,
    only_end_tokens,
    penalize_repetition,
    without_tokens,
)
from flaxmill.model.generation.unrolled_model import UnrolledModel
from flaxmill.sharding.rules import constrain

NO_TOKEN = -1  # fills the places after the end of a text


class Rules(NamedTuple):
    """Which tokens may be chosen, and what ends a text; everything is traced."""

    filters: Filters
    end: jax.Array
    """int32 [E]."""
    suppressed: jax.Array | None
    """int32 ids, or None."""
    limits: jax.Array
    """int32 [B]: most tokens of each text."""
    forces_end: jax.Array | None
    """bool: whether the last token that fits must be an end token; None: no."""


class DecodingState(NamedTuple):
    """The state of decoding."""

    cache: Cache
    tokens: jax.Array
    """int32 [B]: the newest token of each row, which the cache does not hold yet."""
    is_done: jax.Array
    """bool [B]."""
    seen: jax.Array | None
    """bool [B,V]: tokens of the prompt and the text, where a filter asks for them."""
    keys: jax.Array
    """[B] random keys."""
    step: jax.Array
    """int32 []: tokens chosen so far."""


@functools.partial(jax.jit, static_argnames=("num_slots", "copies"))
def start(
    model: UnrolledModel,
    tokens_BP: jax.Array,
    first_B: jax.Array,
    source: EncodedSource | None,
    rules: Rules,
    keys_B: jax.Array,
    *,
    num_slots: int,
    copies: int,
) -> DecodingState:
    """Read the prompts and choose the first token of `copies` texts of each."""
    logits_BV, cache = read_prompt(model, tokens_BP, first_B, num_slots, source)
    logits_BV, cache = repeat_rows(logits_BV, copies), repeat_cache(cache, copies)
    seen_BV = None
    if rules.filters.repetition_penalty is not None:
        seen_BV = repeat_rows(tokens_seen(tokens_BP, first_B, logits_BV.shape[-1]), copies)
    none_B = jnp.zeros(logits_BV.shape[0], jnp.int32)
    state = DecodingState(cache, none_B, none_B.astype(bool), seen_BV, keys_B, jnp.int32(0))
    return _choose(state, logits_BV, rules)


@functools.partial(jax.jit, static_argnames="chunk", donate_argnames="state")
def continue_decoding(
    model: UnrolledModel,
    source: EncodedSource | None,
    state: DecodingState,
    rules: Rules,
    num_steps: jax.Array,
    *,
    chunk: int,
) -> tuple[DecodingState, jax.Array]:
    """Up to `num_steps` more tokens of each row, fewer once all rows are done.

    Returns: the state, donated and so updated in place, and int32 [chunk,B] tokens, `NO_TOKEN` where there
    is none.
    """

    def step(carry: tuple[jax.Array, DecodingState, jax.Array]) -> tuple[jax.Array, DecodingState, jax.Array]:
        number, state, chosen_CB = carry
        was_done_B = state.is_done
        logits_BV, cache = read_token(model, state.tokens, state.cache, source)
        state = _choose(state._replace(cache=cache), logits_BV, rules)
        new_B = jnp.where(was_done_B, NO_TOKEN, state.tokens)
        return number + 1, state, chosen_CB.at[number].set(new_B)

    def goes_on(carry: tuple[jax.Array, DecodingState, jax.Array]) -> jax.Array:
        number, state, _ = carry
        return (number < num_steps) & ~state.is_done.all()

    empty_CB = jnp.full((chunk, state.tokens.shape[0]), NO_TOKEN)
    _, state, chosen_CB = jax.lax.while_loop(goes_on, step, (jnp.int32(0), state, empty_CB))
    return state, chosen_CB


def adjust_scores(
    scores_BV: jax.Array, rules: Rules, seen_BV: jax.Array | None, step: jax.Array
) -> jax.Array:
    """Apply what sampling and beam search share: repetition penalty, suppressed and forced tokens."""
    if seen_BV is not None:
        penalty = rules.filters.repetition_penalty
        assert penalty is not None
        scores_BV = penalize_repetition(scores_BV, seen_BV, penalty)
    if rules.suppressed is not None:
        scores_BV = without_tokens(scores_BV, rules.suppressed)
    if rules.forces_end is not None:
        is_last_B1 = (step + 1 == rules.limits)[:, None] & rules.forces_end
        scores_BV = jnp.where(is_last_B1, only_end_tokens(scores_BV, rules.end), scores_BV)
    return scores_BV


def tokens_seen(tokens_BP: jax.Array, first_B: jax.Array, vocab_size: int) -> jax.Array:
    """bool [B,V]: which tokens the prompts hold; padding does not count."""
    is_real_BP = jnp.arange(tokens_BP.shape[1]) >= first_B[:, None]
    rows_B1 = jnp.arange(tokens_BP.shape[0])[:, None]
    return jnp.zeros((tokens_BP.shape[0], vocab_size), bool).at[rows_B1, tokens_BP].max(is_real_BP)


def repeat_cache(cache: Cache, copies: int) -> Cache:
    """Every row `copies` times, the copies next to each other."""
    layers = jax.tree.map(lambda x: repeat_rows(x, copies), cache.layers)
    return Cache(layers, cache.index, repeat_rows(cache.first, copies))


def repeat_rows(x: jax.Array, copies: int) -> jax.Array:
    """[B * copies, ...], the copies of a row next to each other."""
    return x if copies == 1 else constrain(jnp.repeat(x, copies, axis=0), "batch", *(None,) * (x.ndim - 1))


def _choose(state: DecodingState, logits_BV: jax.Array, rules: Rules) -> DecodingState:
    with jax.named_scope("choose_token"):
        scores_BV = adjust_scores(logits_BV, rules, state.seen, state.step)
        if rules.filters.temperature is None:
            tokens_B = scores_BV.argmax(-1).astype(jnp.int32)
        else:
            keys_B = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.step)
            tokens_B = draw_tokens(filter_logits(scores_BV, rules.filters), keys_B)
        is_done_B = state.is_done | jnp.isin(tokens_B, rules.end) | (state.step + 1 >= rules.limits)
        seen_BV = state.seen
        if seen_BV is not None:
            seen_BV = seen_BV.at[jnp.arange(tokens_B.size), tokens_B].set(True)
    return DecodingState(state.cache, tokens_B, is_done_B, seen_BV, state.keys, state.step + 1)
