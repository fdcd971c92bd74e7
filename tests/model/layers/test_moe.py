"""Experts: each way to compute them equals all tokens times all experts, in value and gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxmill.model import ModelConfig
from flaxmill.model.layers import expert_slots
from flaxmill.model.layers.moe import MixtureOfExperts

NUM_EXPERTS, TOKENS, WIDTH = 5, 16, 24
TOLERANCE = 1e-6  # of the largest value: float32 sums in another order
FORMS = {
    "ragged": lambda experts, num, _: expert_slots.ragged_slots(experts, num),
    "blocks": lambda experts, num, _: expert_slots.block_slots(experts, num),
    "buffers": lambda experts, num, _: expert_slots.buffer_slots(experts, num, TOKENS),
}


def config_of(**changes):
    fields: dict[str, Any] = dict(
        embed_dim=WIDTH, num_heads=4, mlp_dim=20, num_experts=NUM_EXPERTS, activation="silu"
    )
    fields |= dict(gated_mlp=True, initializer_std=0.3, use_bias=False)
    return ModelConfig(**fields | changes)


def dense_reference(config, params, x_BTD, is_real_BT):
    """Every token times every expert; those that it did not choose weigh nothing."""
    probabilities = jax.nn.softmax(x_BTD @ params["router"]["kernel"])
    weights, experts = jax.lax.top_k(probabilities, config.experts_per_token)
    weights = weights / weights.sum(-1, keepdims=True) if config.normalize_top_k else weights
    weights_BTE = (jax.nn.one_hot(experts, NUM_EXPERTS) * weights[..., None]).sum(-2)
    up = jnp.einsum("BTD,EDF->BTEF", x_BTD, params["up"]["kernel"])
    hidden = jax.nn.silu(up)
    if config.gated_mlp:
        hidden = jax.nn.silu(jnp.einsum("BTD,EDF->BTEF", x_BTD, params["gate"]["kernel"])) * up
    y_BTED = jnp.einsum("BTEF,EFD->BTED", hidden, params["down"]["kernel"])
    return jnp.einsum("BTED,BTE->BTD", y_BTED, weights_BTE * is_real_BT[..., None])


@functools.cache
def inputs():
    x_BTD = jax.random.normal(jax.random.key(1), (3, TOKENS, WIDTH))
    is_real_BT = jnp.arange(TOKENS) < jnp.array([TOKENS, 9, 1])[:, None]
    return x_BTD, is_real_BT, jax.random.normal(jax.random.key(2), x_BTD.shape)


def value_and_gradients(run, params, x_BTD):
    """Of the sum of the outputs, each times a number of its own."""
    factors_BTD = inputs()[2]
    loss = lambda params, x: ((y := run(params, x)) * factors_BTD).sum() + 0 * y.sum()  # noqa: E731
    return run(params, x_BTD), *jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x_BTD)


def split(config):
    graph, state = nnx.split(MixtureOfExperts(jax.random.key(0), config))
    return lambda params: nnx.merge(graph, params), nnx.to_pure_dict(state)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"normalize_top_k": False, "experts_per_token": 3},
        {"gated_mlp": False, "normalize_top_k": False, "experts_per_token": 1},
    ],
    ids=["normalised", "not normalised", "not gated, one expert"],
)
def test_each_form_equals_all_tokens_times_all_experts(form, changes, monkeypatch):
    monkeypatch.setattr("flaxmill.model.layers.expert_exchange.make_slots", FORMS[form])
    config, (x_BTD, is_real_BT, _) = config_of(**changes), inputs()
    merge, params = split(config)
    expected = value_and_gradients(lambda p, x: dense_reference(config, p, x, is_real_BT), params, x_BTD)
    found = value_and_gradients(lambda p, x: merge(p)(x, is_real_BT)[0], params, x_BTD)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE * np.abs(other).max())


def test_padding_goes_nowhere_and_counts_nowhere():
    config, (x_BTD, is_real_BT, _) = config_of(expert_capacity=1.0), inputs()
    merge, params = split(config)
    run = jax.jit(lambda params, x: merge(params)(x, is_real_BT))
    y_BTD, sums = run(params, x_BTD)
    other_BTD, other_sums = run(params, jnp.where(is_real_BT[..., None], x_BTD, 100 * x_BTD))
    assert not y_BTD[~is_real_BT].any()
    np.testing.assert_array_equal(y_BTD, other_BTD)
    jax.tree.map(np.testing.assert_array_equal, sums, other_sums)
    assert sums.choices.sum() == 2 * is_real_BT.sum()
    np.testing.assert_allclose(sums.probabilities.sum(), is_real_BT.sum(), rtol=1e-6)  # float32 sums


def test_a_row_loses_the_same_tokens_whatever_rows_are_beside_it():
    config, (x_BTD, is_real_BT, _) = config_of(expert_capacity=0.8), inputs()
    merge, params = split(config)
    run = jax.jit(lambda x, is_real: merge(params)(x, is_real)[0])
    together = run(x_BTD, is_real_BT)
    apart = jnp.concatenate([run(x_BTD[row : row + 1], is_real_BT[row : row + 1]) for row in range(3)])
    np.testing.assert_allclose(together, apart, rtol=0, atol=TOLERANCE * np.abs(apart).max())
    whole = dense_reference(config, params, x_BTD, is_real_BT)
    assert np.abs(together - whole).max() > 0.1 * np.abs(whole).max()  # it did lose some


def test_shared_experts_are_an_mlp_of_their_width_beside_the_others():
    config, (x_BTD, is_real_BT, _) = config_of(shared_experts=2), inputs()
    merge, params = split(config)
    assert params["shared"]["up"]["kernel"].shape == (WIDTH, 40)
    y_BTD = merge(params)(x_BTD, is_real_BT)[0]
    shared = merge(params).shared
    assert shared is not None
    expected = dense_reference(config, params, x_BTD, is_real_BT) + shared(x_BTD)
    np.testing.assert_allclose(y_BTD, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_bfloat16_computes_in_bfloat16_and_gives_float32_gradients():
    config, (x_BTD, is_real_BT, _) = config_of(dtype="bfloat16"), inputs()
    merge, params = split(config)
    run = lambda params: merge(params)(x_BTD.astype(jnp.bfloat16), is_real_BT)[0]  # noqa: E731
    assert run(params).dtype == jnp.bfloat16
    gradients = jax.grad(lambda params: run(params).sum().astype(jnp.float32))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
