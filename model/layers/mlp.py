"""The feed-forward half of a layer, gated or not."""

# B batch, T tokens, D model, F mlp

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from flaxmill.model.config import ModelConfig
from flaxmill.model.layers.dense import Dense
from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.model.layers.initializers import kernel_initializer
from flaxmill.model.layers.lora import lora_of
from flaxmill.sharding.rules import constrain, platform

_FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jax.numpy.tanh,
}


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
        up_BTF = checkpoint_name(self.up(x_BTD), "mlp_up")
        if self.gate is None:
            hidden_BTF = activation(self.activation)(up_BTF)
        else:
            hidden_BTF = _gate(self.activation, up_BTF, checkpoint_name(self.gate(x_BTD), "mlp_gate"))
        hidden_BTF = checkpoint_name(constrain(hidden_BTF, "batch", "tokens", "mlp"), "mlp_hidden")
        return checkpoint_name(self.down(hidden_BTF), "mlp_output")


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The function of this name, in the dtype of its argument."""
    return functools.partial(_of_cpu, name) if platform() == "cpu" else _FUNCTIONS[name]


def _gate(name: str, up_BTF: jax.Array, gate_BTF: jax.Array) -> jax.Array:
    """act(gate) * up (Shazeer 2020)."""
    return (_gated_on_tpu if platform() == "tpu" else _gated)(name, up_BTF, gate_BTF)


def _gated(name: str, up_BTF: jax.Array, gate_BTF: jax.Array) -> jax.Array:
    return activation(name)(gate_BTF) * up_BTF


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gated_on_tpu(name: str, up_BTF: jax.Array, gate_BTF: jax.Array) -> jax.Array:
    """As `_gated`, with gradients that are made once: the compiler would make them again inside of every
    product that reads them."""
    return _gated(name, up_BTF, gate_BTF)


def _gated_on_tpu_forward(name: str, up_BTF: jax.Array, gate_BTF: jax.Array):
    return _gated_on_tpu(name, up_BTF, gate_BTF), (up_BTF, gate_BTF)


def _gated_on_tpu_backward(name: str, saved: tuple[jax.Array, jax.Array], g_BTF: jax.Array):
    _, gradients_of = jax.vjp(functools.partial(_gated, name), *saved)
    return jax.lax.optimization_barrier(gradients_of(g_BTF))


_gated_on_tpu.defvjp(_gated_on_tpu_forward, _gated_on_tpu_backward)


def _of_cpu(name: str, x: jax.Array) -> jax.Array:
    return _FUNCTIONS[name](x) if x.dtype == sum_dtype(x) else _widened(name, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _widened(name: str, x: jax.Array) -> jax.Array:
    """The same of bfloat16: a CPU would round after each of its operations, which takes longer than they do.

    Only x is kept for the gradient.
    """
    return _FUNCTIONS[name](x.astype(sum_dtype(x))).astype(x.dtype)


def _widened_forward(name: str, x: jax.Array):
    return _widened(name, x), x


def _widened_backward(name: str, x: jax.Array, g: jax.Array):
    wide: Any = x.astype(sum_dtype(x))
    _, gradient_of = jax.vjp(_FUNCTIONS[name], wide)
    return (gradient_of(g.astype(wide.dtype))[0].astype(x.dtype),)


_widened.defvjp(_widened_forward, _widened_backward)
