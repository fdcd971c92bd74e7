"""Attention in blocks equals attention over all pairs, in values and gradients, and keeps no pairs."""

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distances import distance

from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import abstract_params, apply
from flaxmill.model.layers import attention as attention_module
from flaxmill.model.layers.attention import attention, xla_attention
from flaxmill.model.layers.blockwise_attention import blockwise_attention
from flaxmill.model.layers.dropout import row_keys
from flaxmill.model.layers.visibility import Tokens, Visibility, attention_mask, may_see, sees

B, T, N, K, H = 3, 70, 4, 2, 16
SCALE = H**-0.5
# Each sum of float32 has another order: measured up to 3e-7.
TOLERANCE = 1e-6

DOCUMENTS = jnp.asarray(np.repeat([[1, 2, 3, 0]] * B, [25, 8, 28, 9], axis=1), jnp.int32)
BY_ROW = jnp.array([True, False, True])
PREFIX = jnp.array([5, 0, 30])
VISIBLE = {
    "causal": Visibility(DOCUMENTS, True),
    "both sides": Visibility(DOCUMENTS, False),
    "causal window": Visibility(DOCUMENTS, True, window=9),
    "window": Visibility(DOCUMENTS, False, window=9),
    "by row": Visibility(DOCUMENTS, BY_ROW),
    "by row, window": Visibility(DOCUMENTS, BY_ROW, window=12),
    "prefix": Visibility(DOCUMENTS, True, prefix=PREFIX),
    "prefix, window": Visibility(DOCUMENTS, True, window=20, prefix=PREFIX),
    "places": Visibility(DOCUMENTS, True, places=jnp.asarray(np.random.default_rng(1).permutation(T))),
}


@functools.cache
def arrays(dtype=jnp.float32):
    """Queries, keys, values, and what the output is multiplied with."""
    keys = jax.random.split(jax.random.key(0), 4)
    return tuple(
        jax.random.normal(key, (B, T, heads, H), dtype) for key, heads in zip(keys, (N, K, K, N), strict=True)
    )


def values_and_gradients(attend, visible, dtype=jnp.float32):
    *inputs, weights = arrays(dtype)

    def loss(q, k, v):
        out = attend(q, k, v, visible, scale=SCALE)
        return (out * weights).sum(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*inputs)
    return out, *gradients


@pytest.mark.slow
@pytest.mark.parametrize("name", VISIBLE)
@pytest.mark.parametrize("block", [16, 100], ids=["many blocks", "one block"])
def test_values_and_gradients_are_those_of_all_pairs(name, block):
    """Blocks of 16 do not divide 70 tokens, so the last one is filled up."""
    found = values_and_gradients(functools.partial(blockwise_attention, block=block), VISIBLE[name])
    wanted = values_and_gradients(xla_attention, VISIBLE[name])
    for a, b in zip(found, wanted, strict=True):
        assert distance(a, b) < TOLERANCE


def test_bfloat16_is_as_far_from_float32_as_attention_over_all_pairs_is():
    visible, low = VISIBLE["causal"], jnp.bfloat16
    exact = values_and_gradients(xla_attention, visible)
    found = values_and_gradients(functools.partial(blockwise_attention, block=16), visible, low)
    pairs = values_and_gradients(xla_attention, visible, low)
    for a, b, c in zip(found, pairs, exact, strict=True):
        assert a.dtype == low
        assert distance(a, c) < 1.3 * distance(b, c)


@pytest.mark.parametrize("name", VISIBLE)
def test_no_visible_pair_is_in_a_block_that_is_skipped(name):
    visible, skipped = VISIBLE[name], 0
    queries, size = visible.queries, 7
    for first in range(0, T, size):
        for other in range(0, T, size):
            near, far = (
                Tokens(queries.documents[:, start : start + size], queries.places[start : start + size])
                for start in (first, other)
            )
            if not may_see(visible.rule, near, far):
                skipped += 1
                assert not sees(visible.rule, near, far).any()
    assert skipped > 20 or name == "places"  # of 100; in random order every block reaches everywhere


def test_places_say_which_token_of_the_row_each_is():
    """Tokens in another order see what they saw in their own."""
    order = np.random.default_rng(2).permutation(T)
    in_order = Visibility(DOCUMENTS, True, window=9, prefix=None)
    moved = in_order._replace(documents=DOCUMENTS[:, order], places=jnp.asarray(order))
    np.testing.assert_array_equal(
        attention_mask(moved), np.asarray(attention_mask(in_order))[:, order][:, :, order]
    )


@pytest.mark.slow
def test_memory_grows_with_the_tokens_and_not_with_their_pairs():
    def temporaries(num_tokens):
        q, k, v = (jax.ShapeDtypeStruct((1, num_tokens, heads, H), jnp.float32) for heads in (N, K, K))
        visible = Visibility(jnp.ones((1, num_tokens), jnp.int32), True)
        loss = lambda q, k, v: blockwise_attention(q, k, v, visible, scale=SCALE, block=128).sum()  # noqa: E731
        analysis: Any = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, v).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    assert temporaries(4096) < 2.2 * temporaries(2048)
    assert temporaries(4096) < 4096 * 4096 * 4 / 2  # half of one head's logits


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
def test_layers_of_a_loop_keep_no_pairs_either(remat):
    """Who sees whom is the same in all layers: computed before their loop, it would be kept for all pairs."""

    def temporaries(num_tokens):
        fields: dict[str, Any] = dict(vocab_size=128, num_layers=3, embed_dim=32, num_heads=2, causal=True)
        fields |= dict(positions="rotary", attention="blocks", remat=remat, head="none")
        config = ModelConfig(max_positions=num_tokens, **fields)
        params = abstract_params(config)
        batch = {"tokens": jax.ShapeDtypeStruct((1, num_tokens), jnp.int32)}
        loss = lambda params, batch: apply(config, params, batch)["hidden"].sum()  # noqa: E731
        analysis: Any = jax.jit(jax.grad(loss)).lower(params, batch).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    assert temporaries(8192) < 2.2 * temporaries(4096)


def test_a_cpu_takes_blocks_for_long_rows_and_says_nothing(caplog):
    choose = functools.partial(attention_module._choose_backend, "auto", dropping=False)
    for causal, least in ((True, 512), (False, 2048), (jnp.ones(1, bool), 2048)):
        for num_tokens, wanted in ((least - 1, "xla"), (least, "blocks")):
            documents, q = jnp.ones((1, num_tokens), jnp.int32), jnp.ones((1, num_tokens, N, H))
            assert choose(q, Visibility(documents, causal)) == wanted
            biased = Visibility(documents, causal, bias=jnp.zeros((N, num_tokens, num_tokens)))
            assert choose(q, biased) == "xla"
    assert not caplog.records


def test_blocks_that_are_asked_for_give_way_with_a_logged_reason(caplog):
    attention_module._log_fallback.cache_clear()
    q, k, v, _ = arrays()
    dropping: dict[str, Any] = dict(scale=SCALE, dropout_rate=0.5, keys_B=row_keys(jax.random.key(1), B))
    with caplog.at_level(logging.WARNING, logger="flaxmill.attention"):
        found = attention(q, k, v, VISIBLE["causal"], backend="blocks", **dropping)
    assert "blocks cannot serve, XLA does: it has no attention dropout" in caplog.text
    np.testing.assert_array_equal(found, xla_attention(q, k, v, VISIBLE["causal"], **dropping))
