"""Moments in bfloat16: half of the memory, and means that stay exact."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model import ModelConfig, abstract_params
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.optimizer.low_moments import round_stochastically
from flaxmill.train.optimizer.optimizers import OptimizerConfig, make_optimizer
from flaxmill.train.state import state_shardings

PARAMS = {
    "layers": {"mlp": {"up": {"kernel": jnp.full((2, 8, 64), 0.5)}}},
    "final_norm": {"scale": jnp.ones(64)},
}
LOW: dict[str, Any] = dict(moment_dtype="bfloat16", beta2=0.999)


def test_rounding_gives_one_of_both_neighbours_and_the_number_as_their_mean():
    number = 1 + 0.3 * 2**-7  # between 1 and 1 + 2^-7
    rounded = round_stochastically(jnp.full(100_000, number), jax.random.key(0)).astype(jnp.float32)
    assert set(np.unique(rounded)) == {1.0, 1 + 2**-7}
    assert abs(float((rounded > 1).mean()) - 0.3) < 0.01  # 0.3 of 100,000: a deviation is 0.0014


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 3.0e38, np.inf, -np.inf, np.nan])
def test_what_bfloat16_holds_is_not_changed(value):
    given = jnp.full(64, jnp.bfloat16(value), jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(round_stochastically(given, jax.random.key(1)).astype(jnp.float32), given)


def test_a_mean_of_squares_grows_though_each_step_is_below_a_rounding():
    """After 1,000 gradients of 1 it is 1 - 0.999^1000; rounded to the nearest it would stay below 0.25."""
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.0, **LOW), PARAMS)
    update = jax.jit(lambda state: optimizer.update(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)[1])
    state = optimizer.init(PARAMS)
    for _ in range(1000):
        state = update(state)
    means = [
        leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.bfloat16 and leaf.shape == (2, 8, 64)
    ]
    found = sorted(float(mean.astype(jnp.float32).mean()) for mean in means)
    assert found == [pytest.approx(1 - 0.999**1000, rel=0.01), pytest.approx(1, rel=0.01)]


def waves(shape, step):
    """Numbers without pattern, which change little from step to step."""
    return jnp.cos(0.1 * step + jnp.arange(np.prod(shape)) ** 2.0).reshape(shape)


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion", "muon"])
def test_updates_are_those_of_float32_within_the_rounding(name):
    updates = {}
    for dtype in ("float32", "bfloat16"):
        optimizer = make_optimizer(OptimizerConfig(name=name, moment_dtype=dtype), PARAMS)
        state = optimizer.init(PARAMS)
        for step in range(3):
            gradients = jax.tree.map(lambda p, step=step: waves(p.shape, step), PARAMS)
            updates[dtype], state = jax.jit(optimizer.update)(gradients, state, PARAMS)
        moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
        assert {leaf.dtype for leaf in moments} == {jnp.dtype(dtype)}
    for full, low in zip(*(jax.tree.leaves(updates[dtype]) for dtype in updates), strict=True):
        # Each of two moments is off by less than 2^-7 of itself, at random.
        assert jnp.linalg.norm(low - full) < 0.03 * jnp.linalg.norm(full)


def test_moments_live_where_their_parameters_do():
    config = ModelConfig(vocab_size=128, max_positions=8, num_layers=2, embed_dim=16, causal=True, head="lm")
    optimizer = make_optimizer(OptimizerConfig(**LOW), abstract_params(config))
    shardings = state_shardings(config, optimizer, make_mesh(MeshConfig(data=2, fsdp=4)))
    of_params = [leaf.spec for leaf in jax.tree.leaves(shardings.params)]
    of_moments = [leaf.spec for leaf in jax.tree.leaves(shardings.optimizer)]
    assert [spec for spec in of_moments if "fsdp" in str(spec)] == 2 * [
        s for s in of_params if "fsdp" in str(s)
    ]


def test_factored_moments_have_no_dtype():
    with pytest.raises(
        ValueError, match=r"moment_dtype=bfloat16 has no meaning for optimizer.name=adafactor"
    ):
        OptimizerConfig(name="adafactor", moment_dtype="bfloat16")
