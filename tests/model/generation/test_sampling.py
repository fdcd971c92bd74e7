"""Tokens are drawn from exactly the distribution that the filters leave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model.generation.sampling import (
    Filters,
    draw_tokens,
    filter_logits,
    only_end_tokens,
    penalize_repetition,
)

V = 30


def _probabilities(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """The same filters written out in float64, one after the other."""
    probs = np.exp(logits.astype(np.float64) / temperature)
    probs /= probs.sum()
    order = np.argsort(-probs)
    if top_k is not None:
        probs[order[top_k:]] = 0
        probs /= probs.sum()
    if top_p is not None:
        before = np.cumsum(probs[order]) - probs[order]
        probs[order[before >= top_p]] = 0
        probs /= probs.sum()
    if min_p is not None:
        probs[probs < min_p * probs.max()] = 0
        probs /= probs.sum()
    return probs


CASES = [
    {},
    {"temperature": 0.5},
    {"top_k": 5},
    {"top_p": 0.7},
    {"min_p": 0.2},
    {"temperature": 1.7, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
]


def _filtered(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    return filter_logits(jnp.asarray(logits)[None], Filters(None, temperature, top_k, top_p, min_p))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_drawn_tokens_follow_the_filtered_softmax(case):
    """A chi-square test at 99.9%, with a fixed seed, so that it always passes or always fails."""
    logits = np.random.default_rng(0).normal(0, 1.5, V).astype(np.float32)
    expected = _probabilities(logits, **case)
    num_draws = 20_000
    keys = jax.random.split(jax.random.key(0), num_draws)
    logits_BV = jnp.broadcast_to(_filtered(logits, **case), (num_draws, V))
    counts = np.bincount(np.asarray(draw_tokens(logits_BV, keys)), minlength=V)
    kept = expected > 0
    assert not counts[~kept].any()
    chi_square = ((counts - num_draws * expected)[kept] ** 2 / (num_draws * expected[kept])).sum()
    degrees = kept.sum() - 1
    # Wilson and Hilferty's approximation of the quantile, good to 1% for these degrees of freedom.
    limit = degrees * (1 - 2 / (9 * degrees) + 3.09 * np.sqrt(2 / (9 * degrees))) ** 3
    assert chi_square < limit


@pytest.mark.parametrize("case", CASES[1:], ids=str)
def test_filters_are_those_of_transformers(case):
    import torch
    from transformers.generation import logits_process

    logits = np.random.default_rng(1).normal(0, 1.5, V).astype(np.float32)
    makers = {
        "temperature": logits_process.TemperatureLogitsWarper,
        "top_k": logits_process.TopKLogitsWarper,
        "top_p": logits_process.TopPLogitsWarper,
        "min_p": logits_process.MinPLogitsWarper,
    }
    theirs = torch.from_numpy(logits)[None]
    for name, value in case.items():
        theirs = makers[name](value)(None, theirs)
    np.testing.assert_allclose(_filtered(logits, **case), theirs.numpy(), rtol=1e-6)


def test_each_row_draws_by_its_own_key():
    logits_BV = jnp.zeros((64, V))
    keys = jax.random.split(jax.random.key(0), 64)
    tokens = draw_tokens(logits_BV, keys)
    assert len(set(np.asarray(tokens).tolist())) > V // 2
    np.testing.assert_array_equal(draw_tokens(logits_BV[:3], keys[5:8]), tokens[5:8])


def test_repetition_moves_seen_tokens_down():
    scores = jnp.asarray([[2.0, -2.0, 2.0, -2.0]])
    seen = jnp.asarray([[True, True, False, False]])
    np.testing.assert_array_equal(penalize_repetition(scores, seen, 2.0), [[1.0, -4.0, 2.0, -2.0]])


def test_a_forced_end_leaves_no_other_token():
    forced = only_end_tokens(jnp.zeros((1, 4)), jnp.asarray([1, 3]))
    np.testing.assert_array_equal(jnp.isfinite(forced), [False, True, False, True])


def test_the_border_of_a_filter_is_exact_at_every_magnitude():
    logits = jnp.asarray([[-1e30, -3.0, -0.0, 1e-30, 5.0, 1e30]])
    for top_k in range(1, 7):
        kept = jnp.isfinite(filter_logits(logits, Filters(None, 1.0, top_k)))
        np.testing.assert_array_equal(kept[0], np.arange(6) >= 6 - top_k)
