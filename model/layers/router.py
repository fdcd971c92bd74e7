"""Which experts each token goes to, and how evenly tokens are spread over experts."""

# B batch, T tokens, D model, E experts, k experts of a token

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmill.model.config import ModelConfig
from flaxmill.model.layers.dense import dense
from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.model.layers.initializers import kernel_initializer, make_parameter

_AXES = ("embed", "features")


class Routing(NamedTuple):
    """The experts of each token."""

    experts: jax.Array
    """[B,T,k]: their numbers, the likeliest first; at padding E, which is none."""
    weights: jax.Array
    """[B,T,k]: what their outputs are multiplied by, in float32."""


class RoutingSums(NamedTuple):
    """Sums in float32 over tokens that are not padding. They add up over layers and over rows."""

    choices: jax.Array
    """[E]: how many tokens chose each expert; no gradient."""
    probabilities: jax.Array
    """[E]: probabilities of each expert."""
    log_z_squared: jax.Array
    """Squares of the log of the softmax's denominator."""


class Router(nnx.Module):
    """Takes the k experts of a token that are likeliest by a softmax over all, in float32."""

    def __init__(self, key: jax.Array, config: ModelConfig) -> None:
        assert config.num_experts is not None
        self.config = config
        sizes = config.embed_dim, config.num_experts
        self.kernel = make_parameter(kernel_initializer(config)(key, sizes, 1), _AXES, is_wide=True)

    def __call__(self, x_BTD: jax.Array, is_real_BT: jax.Array) -> tuple[Routing, RoutingSums]:
        config, real_BT1 = self.config, is_real_BT[..., None]
        with jax.named_scope("router"), jax.default_matmul_precision("highest"):
            logits_BTE = dense(x_BTD.astype(sum_dtype(x_BTD)), self.kernel[...], _AXES)
            probabilities_BTE = jax.nn.softmax(logits_BTE, axis=-1)
            weights_BTk, experts_BTk = jax.lax.top_k(probabilities_BTE, config.experts_per_token)
            if config.normalize_top_k:
                weights_BTk /= weights_BTk.sum(-1, keepdims=True)
            assert config.num_experts is not None
            experts_BTk = jnp.where(real_BT1, experts_BTk, config.num_experts)
            chosen_BTkE = jax.nn.one_hot(experts_BTk, config.num_experts, dtype=logits_BTE.dtype)
            log_z_BT = jax.nn.logsumexp(logits_BTE, axis=-1)
            sums = RoutingSums(
                chosen_BTkE.sum((0, 1, 2)),
                (probabilities_BTE * real_BT1).sum((0, 1)),
                (log_z_BT**2 * is_real_BT).sum(),
            )
        return Routing(experts_BTk, weights_BTk), sums


_heard: contextvars.ContextVar[list[RoutingSums] | None] = contextvars.ContextVar("heard", default=None)


@contextlib.contextmanager
def hear_routing() -> Iterator[list[RoutingSums]]:
    """Collects the sums of each stack that runs inside, so that any objective can have losses of experts."""
    sums: list[RoutingSums] = []
    token = _heard.set(sums)
    try:
        yield sums
    finally:
        _heard.reset(token)


def tell_routing(sums: RoutingSums) -> None:
    """Gives the sums over the layers of a stack to `hear_routing`, if anyone does."""
    heard = _heard.get()
    if heard is not None:
        heard.append(sums)


def no_routing(config: ModelConfig, dtype: jnp.dtype) -> RoutingSums | None:
    """Sums over no layers; None for a model without experts."""
    if config.num_experts is None:
        return None
    zeros_E = jnp.zeros(config.num_experts, dtype)
    return RoutingSums(zeros_E, zeros_E, jnp.zeros((), dtype))
