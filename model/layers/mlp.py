"""The feed-forward half of a layer, gated or not."""

# B batch, T tokens, D model, F mlp

import functools
from collections.abc import Callable

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from flaxmill.model.config import ModelConfig
from flaxmill.model.layers.dense import Dense
from flaxmill.model.layers.initializers import kernel_initializer
from flaxmill.model.layers.lora import lora_of
from flaxmill.sharding.rules import constrain


class MLP(nnx.Module):
    """down(act(up(x))), or down(act(gate(x)) * up(x)) when gated (Shazeer 2020)."""

    def __init__(self, key: jax.Array, config: ModelConfig, hidden_dim: int | None = None) -> None:
        """`hidden_dim`: the width between the projections; None: `config.hidden_dim`."""
        keys = jax.random.split(key, 3)
        width, hidden = (config.embed_dim,), (config.hidden_dim if hidden_dim is None else hidden_dim,)
        make, bias = kernel_initializer(config), config.has_bias("mlp")
        self.activation = config.activation
        widen = lambda key, name: Dense(  # noqa: E731
            key, width, hidden, ("embed", "mlp"), make, bias, lora_of(config, name)
        )
        self.up = widen(keys[0], "up")
        self.gate = widen(keys[1], "gate") if config.gated_mlp else None
        make_down = kernel_initializer(config, residual=True)
        lora = lora_of(config, "down")
        self.down = Dense(keys[2], hidden, width, ("mlp", "embed"), make_down, bias, lora)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        act = activation(self.activation)
        up_BTF = checkpoint_name(self.up(x_BTD), "mlp_up")
        if self.gate is None:
            hidden_BTF = act(up_BTF)
        else:
            hidden_BTF = act(checkpoint_name(self.gate(x_BTD), "mlp_gate")) * up_BTF
        hidden_BTF = checkpoint_name(constrain(hidden_BTF, "batch", "tokens", "mlp"), "mlp_hidden")
        return checkpoint_name(self.down(hidden_BTF), "mlp_output")


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    return {
        "gelu": functools.partial(jax.nn.gelu, approximate=False),
        "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
        "relu": jax.nn.relu,
        "silu": jax.nn.silu,
        "tanh": jax.numpy.tanh,
    }[name]
