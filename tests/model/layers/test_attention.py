"""Attention: the reference, its mask, the choice of a backend, and the fused kernels that run here."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model.layers import attention as attention_module
from flaxmill.model.layers.attention import attention, xla_attention
from flaxmill.model.layers.dropout import row_keys
from flaxmill.model.layers.fused_attention import splash_attention
from flaxmill.model.layers.visibility import Visibility, attention_mask
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.sharding.placement import zigzag_order

B, T, N, K, H = 2, 128, 4, 2, 64


@pytest.fixture(scope="module")
def arrays():
    keys = jax.random.split(jax.random.key(0), 3)
    q_BTNH = jax.random.normal(keys[0], (B, T, N, H))
    k_BTKH, v_BTKH = (jax.random.normal(key, (B, T, K, H)) for key in keys[1:])
    documents_BT = jnp.asarray(np.repeat([[1, 2, 3, 0]], B, 0).repeat([50, 30, 40, 8], 1), jnp.int32)
    return q_BTNH, k_BTKH, v_BTKH, documents_BT


def slow_attention(q_BTNH, k_BTKH, v_BTKH, documents_BT, causal_B):
    """Attention row by row and head by head, over the keys that the query may see."""
    out = np.zeros(q_BTNH.shape)
    for b, t, n in np.ndindex(*q_BTNH.shape[:3]):
        may_see = documents_BT[b] == documents_BT[b, t]
        if causal_B[b]:
            may_see = may_see & (np.arange(T) <= t)
        k, v = k_BTKH[b, may_see, n * K // N], v_BTKH[b, may_see, n * K // N]
        weights = np.exp(k @ q_BTNH[b, t, n] * H**-0.5)
        out[b, t, n] = weights @ v / weights.sum()
    return out


@pytest.mark.parametrize("causal", [True, False, jnp.array([True, False])], ids=["causal", "full", "by row"])
def test_xla_attention_equals_a_loop_over_visible_keys(arrays, causal):
    q, k, v, documents = arrays
    got = xla_attention(q, k, v, Visibility(documents, causal), scale=H**-0.5)
    causal_B = np.broadcast_to(np.asarray(causal), (B,))
    exact = [np.asarray(x, np.float64) for x in (q, k, v)]
    expected = slow_attention(*exact, documents_BT=np.asarray(documents), causal_B=causal_B)
    np.testing.assert_allclose(got, expected, atol=3e-6)  # float32 against float64


@pytest.mark.parametrize("window", [1, 7, 64])
def test_a_causal_window_counts_the_token_itself(window):
    mask = attention_mask(Visibility(jnp.ones((1, 100), jnp.int32), True, window))[0]
    seen = [np.flatnonzero(row) for row in np.asarray(mask)]
    for place, keys in enumerate(seen):
        np.testing.assert_array_equal(keys, np.arange(max(0, place - window + 1), place + 1))


@pytest.mark.parametrize("window", [1, 6, 64])
def test_a_window_without_direction_reaches_half_of_it_to_each_side(window):
    mask = attention_mask(Visibility(jnp.ones((1, 100), jnp.int32), False, window))[0]
    for place, row in enumerate(np.asarray(mask)):
        first, last = max(0, place - window // 2), min(99, place + window // 2)
        np.testing.assert_array_equal(np.flatnonzero(row), np.arange(first, last + 1))


def test_rows_of_either_direction_have_their_own_window():
    documents_BT = jnp.ones((2, 20), jnp.int32)
    both = attention_mask(Visibility(documents_BT, jnp.array([True, False]), 6))
    for row, causal in enumerate((True, False)):
        np.testing.assert_array_equal(both[row], attention_mask(Visibility(documents_BT, causal, 6))[row])


@pytest.mark.parametrize("window", [None, 3])
def test_the_first_tokens_of_a_prefix_row_see_each_other(window):
    documents = jnp.array([[1] * 8, [1, 1, 2, 2, 2, 2, 0, 0]])
    prefix = jnp.array([5, 4])
    mask = attention_mask(Visibility(documents, True, window, prefix=prefix))
    for row, query, key in np.ndindex(2, 8, 8):
        reaches = window is None or abs(query - key) < window
        sees = reaches and (key <= query or key < prefix[row])
        assert mask[row, query, key] == (sees and documents[row, query] == documents[row, key])


def test_cross_attention_stays_within_the_pair():
    keys = jnp.array([[1, 1, 2, 0]])
    mask = attention_mask(Visibility(jnp.array([[1, 2, 0]]), False, key_documents=keys))[0]
    np.testing.assert_array_equal(mask, [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_a_bias_is_added_to_the_scaled_logits(arrays):
    q, k, v, documents = arrays
    bias_NTS = jax.random.normal(jax.random.key(3), (N, T, T))
    visible = Visibility(documents, True)
    got = xla_attention(q, k, v, visible._replace(bias=bias_NTS), scale=0.5)
    logits_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q, jnp.repeat(k, N // K, 2)) * 0.5 + bias_NTS
    mask_BTS = attention_mask(visible)
    probs = jax.nn.softmax(jnp.where(mask_BTS[:, None], logits_BNTS, -jnp.inf), -1)
    expected = jnp.einsum("BNTS,BSNH->BTNH", probs, jnp.repeat(v, N // K, 2))
    np.testing.assert_allclose(got, expected, atol=3e-6)  # float32, contracted in another order


def test_mask_never_crosses_documents():
    documents_BT = jnp.array([[1, 1, 2, 2, 0]])
    mask = attention_mask(Visibility(documents_BT, False))[0]
    assert not mask[:2, 2:].any()
    assert not mask[2:, :2].any()
    assert mask[2:4, 2:4].all()


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("causal", [True, False])
def test_splash_attention_equals_xla_with_packed_documents(arrays, causal, window):
    q, k, v, documents = arrays
    visible = Visibility(documents, causal, window)
    got = splash_attention(q, k, v, visible, scale=H**-0.5, interpret=True)
    expected = xla_attention(q, k, v, visible, scale=H**-0.5)
    np.testing.assert_allclose(got, expected, atol=2e-5)  # blockwise softmax rescales its sums


@pytest.mark.slow
@pytest.mark.parametrize(
    ("causal", "zigzag", "window"),
    [(True, True, None), (True, True, 150), (True, False, None), (False, False, None), (False, False, 300)],
)
def test_splash_with_gathered_keys_equals_attention_on_one_device(causal, zigzag, window):
    """Values, and gradients of queries, keys and values."""
    parts, T = 2, 512
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(2, T, 4, 16), (2, T, 2, 16), (2, T, 2, 16), (2, T, 4, 16)]
    q, k, v, g = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    documents = jnp.repeat(jnp.array([[1, 2, 3, 0], [1, 1, 1, 2]]), T // 4, axis=1)
    order = zigzag_order(T, parts) if zigzag else np.arange(T)
    mesh = make_mesh(MeshConfig(data=1, context=parts))

    def local(q, k, v, documents):
        visible = Visibility(documents, causal, window, zigzag=zigzag)
        return splash_attention(q, k, v, visible, scale=0.25, interpret=True)

    split = jax.P(None, "context")
    shared = jax.shard_map(local, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)

    def alone(q, k, v, documents):
        return xla_attention(q, k, v, Visibility(documents, causal, window), scale=0.25)

    moved = [x[:, order] for x in (q, k, v, documents, g)]
    found, pull_found = jax.vjp(lambda q, k, v: shared(q, k, v, moved[3]), *moved[:3])
    wanted, pull_wanted = jax.vjp(lambda q, k, v: alone(q, k, v, documents), q, k, v)
    for one, other in zip((found, *pull_found(moved[4])), (wanted, *pull_wanted(g)), strict=True):
        np.testing.assert_allclose(one, other[:, order], atol=5e-5)  # blockwise softmax rescales its sums


def test_fused_backend_gives_way_with_a_logged_reason(arrays, caplog):
    attention_module._log_fallback.cache_clear()
    q, k, v, documents = arrays
    visible = Visibility(documents, True)
    with caplog.at_level(logging.WARNING, logger="flaxmill.attention"):
        got = attention(q, k, v, visible, scale=H**-0.5, backend="cudnn")
    assert "cudnn cannot serve, XLA does: it needs a GPU" in caplog.text
    np.testing.assert_array_equal(got, xla_attention(q, k, v, visible, scale=H**-0.5))


def test_auto_is_silent_on_a_cpu(arrays, caplog):
    q, k, v, documents = arrays
    attention(q, k, v, Visibility(documents, True), scale=1.0, backend="auto")
    assert not caplog.records


@pytest.mark.slow
def test_dropout_zeroes_probabilities_and_keeps_their_mean(arrays):
    q, k, _, documents = arrays
    ones = jnp.ones((B, T, K, H))
    got = xla_attention(
        q,
        k,
        ones,
        Visibility(documents, False),
        scale=0.0,
        dropout_rate=0.5,
        keys_B=row_keys(jax.random.key(1), B),
    )
    assert got.std() > 0.05
    np.testing.assert_allclose(got.mean(), 1.0, atol=0.05)  # 1024 rows of at least 8 kept or dropped places


def test_every_kernel_lowers_for_the_hardware_it_is_for(arrays):
    q, k, v, documents = arrays

    def run(q, k, v):
        return splash_attention(q, k, v, Visibility(documents, True), scale=1.0).sum()

    traced = jax.jit(jax.grad(run, (0, 1, 2))).trace(q, k, v)
    assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()
