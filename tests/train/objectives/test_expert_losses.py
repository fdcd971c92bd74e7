"""Losses of experts: as papers and transformers define them, over all layers and real tokens together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model import ModelConfig, init_params
from flaxmill.model.layers.router import RoutingSums
from flaxmill.train.objectives.expert_losses import expert_losses, expert_sums
from flaxmill.train.objectives.losses import combine, denominators, numerators

CONFIG = ModelConfig(
    vocab_size=40, num_layers=4, embed_dim=16, num_heads=2, max_positions=12, head="lm", causal=True,
    num_experts=4, moe_every=2, load_balance_loss=0.1, router_z_loss=0.01, initializer_std=0.3,
)  # fmt: skip
TOKENS = 12


def batch_of(rows=4, real=(12, 5, 9, 1)):
    tokens = jax.random.randint(jax.random.key(7), (rows, TOKENS), 0, 40)
    mask = (jnp.arange(TOKENS) < jnp.array(real)[:, None]).astype(jnp.int32)
    return {"tokens": tokens, "targets": tokens, "weights": mask.astype(jnp.float32), "mask": mask}


def measured(config, params, batch):
    sums = numerators("causal", config, params, batch, max_predictions=None)
    return combine("causal", 0.0, sums, denominators("causal", batch))


def sums_of(logits_LME, k):
    """What routers with these logits give: [layers, tokens, experts]."""
    probabilities = jax.nn.softmax(logits_LME)
    chosen = jax.nn.one_hot(jax.lax.top_k(probabilities, k)[1], logits_LME.shape[-1]).sum(2)
    log_z = jax.nn.logsumexp(logits_LME, -1)
    return RoutingSums(chosen.sum((0, 1)), probabilities.sum((0, 1)), (log_z**2).sum())


def test_the_losses_are_those_of_the_papers():
    logits_LME = jax.random.normal(jax.random.key(0), (2, 9, 4))
    found = expert_losses(expert_sums(CONFIG, [sums_of(logits_LME, 2)]), {"real_tokens": 9.0})
    probabilities = np.asarray(jax.nn.softmax(logits_LME)).reshape(18, 4)
    f = np.array([(np.argsort(-probabilities)[:, :2] == expert).sum() / 18 for expert in range(4)])
    balance = 4 * (f * probabilities.mean(0)).sum()
    z = np.mean(np.asarray(jax.nn.logsumexp(logits_LME, -1)) ** 2)
    np.testing.assert_allclose(found[1]["load_balance_loss"], balance, rtol=1e-6)  # float32 sums
    np.testing.assert_allclose(found[1]["router_z_loss"], z, rtol=1e-6)
    np.testing.assert_allclose(found[0], 0.1 * balance + 0.01 * z, rtol=1e-6)
    np.testing.assert_allclose(found[1]["expert_load"], f / 2, rtol=1e-6)


def test_tokens_spread_evenly_cost_as_many_as_each_token_chooses():
    logits_LME = jnp.log(jnp.eye(4)[jnp.arange(8) % 4] + jnp.eye(4)[(jnp.arange(8) + 1) % 4] + 1e-9)[None]
    even = RoutingSums(jnp.full(4, 4.0), jnp.full(4, 2.0), jnp.float32(0))
    assert expert_losses(expert_sums(CONFIG, [even]), {"real_tokens": 4.0})[1]["load_balance_loss"] == 2
    found = expert_losses(expert_sums(CONFIG, [sums_of(logits_LME, 2)]), {"real_tokens": 4.0})[1]
    np.testing.assert_array_equal(found["expert_load"], np.full(4, 0.25))


@pytest.mark.slow
def test_the_total_is_the_sum_of_the_weighted_parts():
    params, batch = init_params(CONFIG, jax.random.key(0)), batch_of()
    found = measured(CONFIG, params, batch)
    total = found["causal_loss"] + 0.1 * found["load_balance_loss"] + 0.01 * found["router_z_loss"]
    np.testing.assert_allclose(found["loss"], total, rtol=1e-6)
    without = measured(dataclasses.replace(CONFIG, load_balance_loss=0, router_z_loss=0), params, batch)
    assert without["loss"] == found["causal_loss"]
    assert without["load_balance_loss"] == found["load_balance_loss"]
    assert without["expert_load"].shape == (4,)
    np.testing.assert_allclose(without["expert_load"].sum(), 1, rtol=1e-6)


@pytest.mark.slow
def test_padding_changes_no_loss():
    params, batch = init_params(CONFIG, jax.random.key(0)), batch_of()
    other = batch | {"tokens": jnp.where(batch["mask"] > 0, batch["tokens"], 39)}
    found, expected = measured(CONFIG, params, other), measured(CONFIG, params, batch)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    rows = {name: jnp.concatenate([value, jnp.zeros_like(value)]) for name, value in batch.items()}
    found = measured(CONFIG, params, rows)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["load_balance_loss", "router_z_loss"])
def test_each_loss_moves_the_router(name):
    params, batch = init_params(CONFIG, jax.random.key(0)), batch_of()
    gradient = jax.grad(lambda params: measured(CONFIG, params, batch)[name])(params)
    assert np.abs(gradient["layers"]["moe"]["router"]["kernel"]).max() > 1e-4


def test_a_model_without_experts_reports_nothing_of_them():
    config = ModelConfig(vocab_size=40, num_layers=1, embed_dim=16, max_positions=12, head="lm", causal=True)
    assert set(measured(config, init_params(config, jax.random.key(0)), batch_of())) == {
        "loss",
        "causal_accuracy",
    }
