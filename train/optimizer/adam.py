"""Adam's direction (Kingma and Ba 2015), with its moments corrected for their start at zero or not."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flaxmill.sharding.rules import platform


def scale_by_adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """mean / (sqrt(mean of squares) + epsilon), both corrected for their start at zero, as in torch.

    It is optax's function of that name, but for 1 - beta**step. optax takes that in float32, which for
    beta2=0.999 cancels to 3e-5 at the first step, a hundred times the rounding of everything else.
    """
    plain = optax.scale_by_adam(beta1, beta2, epsilon)

    def update(updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None):
        del params
        assert isinstance(state, optax.ScaleByAdamState)
        mu, nu = _moments(updates, state.mu, state.nu, beta1, beta2)
        count = jnp.asarray(optax.safe_increment(state.count))
        scale1, scale2 = _correction(beta1, count), _correction(beta2, count)
        updates = jax.tree.map(lambda m, v: (m / scale1) / (jnp.sqrt(v / scale2) + epsilon), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(plain.init, update)


class UncorrectedAdamState(NamedTuple):
    """Means of gradients and of their squares."""

    mu: Any
    nu: Any


def scale_by_uncorrected_adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """m / (sqrt(v) + epsilon) with moments that start at zero and stay biased to it, as in Google's BERT."""

    def init(params: optax.Params) -> UncorrectedAdamState:
        return UncorrectedAdamState(
            jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)
        )

    def update(updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None):
        del params
        assert isinstance(state, UncorrectedAdamState)
        mu, nu = _moments(updates, state.mu, state.nu, beta1, beta2)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), mu, nu)
        return updates, UncorrectedAdamState(mu, nu)

    return optax.GradientTransformation(init, update)


def _moments(updates: Any, mu: Any, nu: Any, beta1: float, beta2: float) -> tuple[Any, Any]:
    mu = jax.tree.map(lambda g, m: beta1 * m + (1 - beta1) * g, updates, mu)
    nu = jax.tree.map(lambda g, v: beta2 * v + (1 - beta2) * jnp.square(g), updates, nu)
    if platform() != "cpu":
        return mu, nu
    # They are written before they are read: else XLA:CPU computes them twice, from copies of the old ones.
    return jax.lax.optimization_barrier((mu, nu))


def _correction(beta: float, count: jax.Array) -> jax.Array:
    """1 - beta**count, without cancellation."""
    return -jnp.expm1(count * math.log(beta)) if beta else jnp.float32(1)
