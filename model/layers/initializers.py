"""Draws the first values of weights, as in the papers; every parameter carries its logical axes."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmill.model.config import ModelConfig

Initializer = Callable[[jax.Array, tuple[int, ...], int], jax.Array]
"""(key, shape, number of leading input dimensions) -> float32 values."""


class Parameter(nnx.Param):
    """A float32 array with `logical_axes`, a name for each dimension, for the table in sharding/rules.py; and
    `is_wide`: whether products with it are in float32 too."""


def make_parameter(value: jax.Array, axes: tuple[str | None, ...], *, is_wide: bool = False) -> Parameter:
    """A float32 parameter. Raises AssertionError where names and dimensions differ in number."""
    assert len(axes) == jnp.ndim(value), f"{axes} does not name the dimensions of shape {jnp.shape(value)}"
    return Parameter(value.astype(jnp.float32), logical_axes=axes, is_wide=is_wide)


def kernel_initializer(config: ModelConfig, *, residual: bool = False) -> Initializer:
    """The initializer of matrix products; `residual` marks products that add to the residual stream."""
    std = config.initializer_std
    if config.initializer == "bert":
        return truncated_normal(std)
    if config.initializer == "xavier":
        return xavier_uniform
    if config.initializer == "gpt2" and residual:
        return normal(std / math.sqrt(2 * config.num_layers))  # Radford et al. 2019, section 2.3
    return normal(std)


def embedding_initializer(config: ModelConfig) -> Initializer:
    if config.initializer == "bert":
        return truncated_normal(config.initializer_std)
    if config.initializer == "xavier":
        return normal(config.embed_dim**-0.5)
    return normal(config.initializer_std)


def normal(std: float) -> Initializer:
    return lambda key, shape, num_in: std * jax.random.normal(key, shape, jnp.float32)


def truncated_normal(std: float) -> Initializer:
    """Cut at two standard deviations and not rescaled, as in BERT: the effective deviation is 0.88 std."""
    return lambda key, shape, num_in: std * jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)


def xavier_uniform(key: jax.Array, shape: tuple[int, ...], num_in: int) -> jax.Array:
    """Glorot and Bengio 2010, eq. 16, as in the original Transformer."""
    fan_in, fan_out = math.prod(shape[:num_in]), math.prod(shape[num_in:])
    limit = math.sqrt(6 / (fan_in + fan_out))
    return jax.random.uniform(key, shape, jnp.float32, -limit, limit)


def uniform_by_fan_in(key: jax.Array, shape: tuple[int, ...], num_in: int) -> jax.Array:
    """Uniform within 1 / sqrt(fan in), as torch draws a Linear, and PEFT the first factor of an adapter."""
    limit = math.prod(shape[:num_in]) ** -0.5
    return jax.random.uniform(key, shape, jnp.float32, -limit, limit)
