"""Layer normalisation (Ba et al. 2016) and RMS normalisation (Zhang and Sennrich 2019), in float32."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmill.model.config import ModelConfig
from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.model.layers.initializers import make_parameter


class Norm(nnx.Module):
    """Normalises the last dimension; returns the dtype of its input."""

    def __init__(
        self,
        config: ModelConfig,
        dim: int | None = None,
        kind: Literal["layernorm", "rmsnorm"] | None = None,
    ) -> None:
        """`dim` and `kind` default to the model's width and config.norm."""
        dim = config.embed_dim if dim is None else dim
        self.kind = config.norm if kind is None else kind
        self.epsilon = config.norm_epsilon
        self.scale = make_parameter(jnp.ones(dim), ("features",))
        has_bias = self.kind == "layernorm" and config.has_bias("norm")
        self.bias = make_parameter(jnp.zeros(dim), ("features",)) if has_bias else None

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        x = x_BTD.astype(sum_dtype(x_BTD))
        if self.kind == "layernorm":
            x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.epsilon) * self.scale[...]
        if self.bias is not None:
            x = x + self.bias[...]
        return x.astype(x_BTD.dtype)
