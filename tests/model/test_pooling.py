"""Tokens are pooled as PyTorch's sentence-transformers pool them, packed or not."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model.fields import TextPooling
from flaxmill.model.pooling import normalize, pool, pool_documents
from flaxmill.sharding.local_rows import on_local_rows, rows_spec
from flaxmill.sharding.local_tokens import share_of_row
from flaxmill.sharding.mesh import MeshConfig, make_mesh

HOWS = get_args(TextPooling)
THEIRS = {"mean_sqrt_len": "mean_sqrt_len_tokens", "weighted_mean": "weightedmean", "last": "lasttoken"}


def hidden(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def by_hand(tokens_TD, how):
    n = len(tokens_TD)
    return {
        "mean": tokens_TD.mean(0),
        "cls": tokens_TD[0],
        "max": tokens_TD.max(0),
        "last": tokens_TD[-1],
        "mean_sqrt_len": tokens_TD.sum(0) / n**0.5,
        "weighted_mean": np.average(tokens_TD, 0, np.arange(1, n + 1)),
    }[how]


@pytest.mark.parametrize("how", HOWS)
def test_padding_on_either_side_counts_for_nothing(how):
    x_BTD = hidden(3, 6, 4)
    mask_BT = jnp.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1]])
    pooled = jax.jit(pool, static_argnums=2)(x_BTD, mask_BT, how)
    expected = [
        by_hand(x_TD[mask_T > 0], how)
        for x_TD, mask_T in zip(np.array(x_BTD), np.array(mask_BT), strict=True)
    ]
    np.testing.assert_allclose(pooled, expected, atol=1e-6)


@pytest.mark.parametrize("how", HOWS)
def test_texts_that_share_a_row_are_pooled_apart(how):
    x_BTD = hidden(1, 9, 4)
    documents_BT = jnp.array([[1, 1, 2, 2, 2, 2, 4, 0, 0]])
    pooled_GD = pool_documents(x_BTD, documents_BT, 5, how)[0]
    for number in (1, 2, 4):
        own_BTD = x_BTD[:, documents_BT[0] == number]
        alone = pool(own_BTD, jnp.ones(own_BTD.shape[:2]), how)
        np.testing.assert_allclose(pooled_GD[number - 1], alone[0], atol=1e-6)
    assert not pooled_GD[np.array([2, 4])].any(), "no such text"


@pytest.mark.parametrize("how", HOWS)
def test_vectors_are_those_of_sentence_transformers(how):
    torch = pytest.importorskip("torch")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    x_BTD, mask_BT = hidden(2, 5, 4), jnp.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    theirs = modules.Pooling(4, pooling_mode=THEIRS.get(how, how))(
        {
            "token_embeddings": torch.from_numpy(np.array(x_BTD)),
            "attention_mask": torch.from_numpy(np.array(mask_BT)),
        }
    )
    np.testing.assert_allclose(pool(x_BTD, mask_BT, how), theirs["sentence_embedding"], atol=1e-6)


@pytest.mark.parametrize("how", HOWS)
def test_gradients_reach_the_tokens_that_count_and_no_others(how):
    x_BTD, mask_BT = hidden(2, 4, 3), jnp.array([[1, 1, 1, 0], [0, 0, 0, 0]])

    def loss(x_BTD):
        return (normalize(pool(x_BTD, mask_BT, how)) * jnp.arange(3.0)).sum()

    gradient_BTD = jax.jit(jax.grad(loss))(x_BTD)
    assert np.isfinite(gradient_BTD).all()
    assert gradient_BTD[0, :3].any()
    assert not gradient_BTD[0, 3:].any()
    assert not gradient_BTD[1].any(), "a row without tokens has the vector 0"


@pytest.mark.parametrize("how", HOWS)
def test_devices_that_share_rows_pool_them_together(how):
    x_BTD = hidden(2, 8, 3)
    documents_BT = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0], [1, 3, 3, 3, 3, 3, 3, 3]])
    positions_BT = jnp.array([[0, 1, 2, 0, 1, 2, 3, 0], [0, 0, 1, 2, 3, 4, 5, 6]])
    order = jnp.array([0, 1, 6, 7, 2, 3, 4, 5])  # a device may have the beginning and the end

    def loss(x_BTD, documents_BT, positions_BT):
        pooled_BGD = pool_documents(x_BTD, documents_BT, 3, how, positions_BT)
        return (share_of_row() * jnp.sin(pooled_BGD)).sum(), pooled_BGD

    expected_BTD, whole_BGD = jax.grad(loss, has_aux=True)(x_BTD, documents_BT, None)
    mesh = make_mesh(MeshConfig(data=1, context=2))
    spec = rows_spec(mesh, with_tokens=True)
    outputs = spec, rows_spec(mesh)
    shared = on_local_rows(jax.grad(loss, has_aux=True), mesh, (spec, spec, spec), outputs)
    with jax.set_mesh(mesh):
        arrays = (array[:, order] for array in (x_BTD, documents_BT, positions_BT))
        gradient_BTD, pooled_BGD = jax.jit(shared)(*arrays)
    np.testing.assert_allclose(pooled_BGD, whole_BGD, atol=1e-6)
    np.testing.assert_allclose(gradient_BTD, expected_BTD[:, order], atol=1e-6)


def test_what_is_not_a_number_stays_one():
    assert np.isnan(pool(hidden(1, 2, 3).at[0, 0, 0].set(np.nan), jnp.ones((1, 2)), "max")[0, 0])


def test_vectors_of_bfloat16_are_summed_in_float32():
    x_BTD = jnp.full((1, 1000, 1), 1.0, jnp.bfloat16)
    pooled = pool(x_BTD, jnp.ones((1, 1000)), "mean_sqrt_len")
    assert pooled.dtype == jnp.float32
    np.testing.assert_allclose(pooled, 1000**0.5, rtol=1e-6)


def test_a_normalised_vector_has_length_one_and_zero_stays_zero():
    lengths = np.linalg.norm(normalize(jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]])), axis=-1)
    np.testing.assert_allclose(lengths, [1, 0, 1], atol=1e-6)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="pooling='first' is not known; use one of mean, cls"):
        pool(hidden(1, 2, 3), jnp.ones((1, 2)), "first")  # type: ignore[arg-type]
