"""The feed-forward half of a layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model.config import ModelConfig
from flaxmill.model.layers import mlp
from flaxmill.model.layers.mlp import MLP


def test_a_gated_mlp_has_the_same_value_and_gradients_as_written_for_tpus(monkeypatch):
    config = ModelConfig(embed_dim=16, num_heads=2, mlp_dim=24, activation="silu", gated_mlp=True)
    layer, x_BTD = MLP(jax.random.key(0), config), jax.random.normal(jax.random.key(1), (2, 5, 16))

    def run(platform):
        monkeypatch.setattr(mlp, "platform", lambda: platform)
        return jax.value_and_grad(lambda layer, x: jnp.sin(layer(x)).sum(), (0, 1))(layer, x_BTD)

    jax.tree.map(np.testing.assert_array_equal, run("tpu"), run("cpu"))


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "relu", "silu", "tanh"])
def test_an_activation_of_bfloat16_is_that_of_float32_rounded_once(name):
    x = jax.random.normal(jax.random.key(0), (1000,), jnp.bfloat16)

    def run(x):
        y, gradient_of = jax.vjp(mlp.activation(name), x)
        return y, *gradient_of(jnp.ones_like(y))

    for value, exact in zip(jax.jit(run)(x), run(x.astype(jnp.float32)), strict=True):
        assert value.dtype == jnp.bfloat16
        np.testing.assert_allclose(value.astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)
