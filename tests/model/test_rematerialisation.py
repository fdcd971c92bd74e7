"""Tensors of a layer are kept, computed again or offloaded by name, and nothing else changes."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from flaxmill.model import ModelConfig, init_params
from flaxmill.model.fields import LAYER_TENSORS
from flaxmill.train.objectives.losses import combine, denominators, numerators

CONFIG = ModelConfig(
    vocab_size=100,
    max_positions=64,
    num_layers=6,
    embed_dim=32,
    num_heads=2,
    causal=True,
    head="lm",
    gated_mlp=True,
    remat="full",
)
ROWS = np.random.default_rng(0).integers(0, 100, (8, 65)).astype(np.int32)
BATCH = {
    "tokens": ROWS[:, :-1],
    "targets": ROWS[:, 1:],
    "mask": np.ones((8, 64), np.int32),
    "weights": np.ones((8, 64), np.float32),
}


def step_of(config):
    def loss(params):
        sums = numerators("causal", config, params, BATCH, max_predictions=None)
        return combine("causal", 0.0, sums, denominators("causal", BATCH))["loss"]

    return jax.jit(jax.grad(loss))


def compiled(remat, *tensors, num_layers=CONFIG.num_layers):
    config = dataclasses.replace(CONFIG, remat=remat, remat_tensors=tensors, num_layers=num_layers)
    params = init_params(config, jax.random.key(0))
    return step_of(config).lower(params).compile(), params


def memory(remat, *tensors):
    """Temporary bytes of so many layers that what is kept in each is most of them."""
    analysis: Any = compiled(remat, *tensors, num_layers=DEEP)[0].memory_analysis()
    return analysis.temp_size_in_bytes


DEEP = 48
KEPT = 8 * 64 * CONFIG.hidden_dim * 4 * DEEP
"""Bytes of a tensor of the MLP's width in all layers."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("remat", "tensors"),
    [
        ("full", [f"{name}=save" for name in LAYER_TENSORS]),
        ("dots", ["mlp_up=recompute", "query=recompute"]),
        ("full", ["layer_input=offload", "mlp_hidden=offload"]),
    ],
)
def test_gradients_do_not_depend_on_what_is_kept(remat, tensors):
    run, params = compiled(remat, *tensors)
    plain, _ = compiled("none")
    for ours, theirs in zip(jax.tree.leaves(run(params)), jax.tree.leaves(plain(params)), strict=True):
        # The same sums, some of them done twice, in fusions of other shapes.
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_a_saved_tensor_takes_its_memory_in_each_layer():
    assert memory("full", "mlp_hidden=save") - memory("full") == pytest.approx(KEPT, rel=0.1)


@pytest.mark.slow
def test_a_recomputed_tensor_gives_it_back():
    assert memory("dots") - memory("dots", "mlp_up=recompute") == pytest.approx(KEPT, rel=0.1)


@pytest.mark.parametrize(
    ("tensors", "remat", "message"),
    [
        (("mlp_upp=save",), "full", "no tensor 'mlp_upp'; did you mean mlp_up?"),
        (("mlp_up=keep",), "full", "write mlp_up=save, mlp_up=recompute or mlp_up=offload"),
        (("mlp_up",), "dots", "mlp_up does not say what to do"),
        (("mlp_up=save", "mlp_up=offload"), "full", "names mlp_up twice"),
        (("mlp_up=save",), "none", "model.remat is none; set it"),
    ],
)
def test_names_and_actions_are_checked(tensors, remat, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        ModelConfig(remat=remat, remat_tensors=tensors)
