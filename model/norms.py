"""Layer normalisation (Ba et al. 2016) and RMS normalisation (Zhang and Sennrich 2019), in float32."""

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmill.model.config import ModelConfig
from flaxmill.model.initializers import make_parameter


class Norm(nnx.Module):
    """Normalises the last dimension; returns the dtype of its input."""

    def __init__(self, config: ModelConfig) -> None:
        self.kind = config.norm
        self.epsilon = config.norm_epsilon
        self.scale = make_parameter(jnp.ones(config.embed_dim), ("features",))
        has_bias = config.norm == "layernorm" and config.use_bias
        self.bias = make_parameter(jnp.zeros(config.embed_dim), ("features",)) if has_bias else None

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        x = x_BTD.astype(jnp.float32)
        if self.kind == "layernorm":
            x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.epsilon) * self.scale[...]
        if self.bias is not None:
            x = x + self.bias[...]
        return x.astype(x_BTD.dtype)
