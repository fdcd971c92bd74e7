"""Experts on several devices give what all of them on one give, however rows get there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxmill.model import ModelConfig
from flaxmill.model.layers import expert_exchange
from flaxmill.model.layers.expert_exchange import num_chunks, sends_choices
from flaxmill.model.layers.moe import MixtureOfExperts
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.sharding.rules import parameter_sharding

NUM_EXPERTS, TOKENS, WIDTH = 8, 12, 16
TOLERANCE = 1e-6  # of the largest value: float32 sums in another order
MESHES = [{"expert": 8}, {"data": 2, "expert": 4}, {"fsdp": 2, "expert": 2, "tensor": 2}]


def values_on(mesh, rows, **changes):
    """Output, and gradients of parameters and hidden states, where the compiler has all axes."""
    config = ModelConfig(
        embed_dim=WIDTH, num_heads=4, mlp_dim=20, num_experts=NUM_EXPERTS, gated_mlp=True, use_bias=False,
        initializer_std=0.3, **changes,
    )  # fmt: skip
    graph, state = nnx.split(MixtureOfExperts(jax.random.key(0), config))
    x_BTD = jax.random.normal(jax.random.key(1), (rows, TOKENS, WIDTH))
    is_real_BT = jnp.arange(TOKENS) < TOKENS - jnp.arange(rows)[:, None]
    with jax.set_mesh(make_mesh(MeshConfig(**{"data": 1, **mesh}))):
        params = place(nnx.to_pure_dict(state))

        def loss(params, x):
            y = nnx.merge(graph, params)(x, is_real_BT)[0]
            return (y * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum(), y

        gradients, y_BTD = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x_BTD)
        return y_BTD, *gradients


def place(params):
    mesh = jax.sharding.get_mesh()
    axes = {"up": ("experts", "embed", "expert_mlp"), "down": ("experts", "expert_mlp", "embed")}
    axes |= {"gate": axes["up"], "router": ("embed", "features")}

    def put(name, kernel):
        return jax.device_put(kernel, parameter_sharding(mesh, axes[name], kernel.shape))

    return {name: {"kernel": put(name, part["kernel"])} for name, part in params.items()}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize(
    ("rows", "capacity"),
    [(8, None), (3, None), (8, 1.0), (3, 1.0)],
    ids=["8", "3", "8 capacity", "3 capacity"],
)
def test_a_program_that_the_compiler_divides_gives_the_same(mesh, rows, capacity):
    wanted = values_on({}, rows, expert_capacity=capacity)
    found = values_on(mesh, rows, expert_capacity=capacity)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE * np.abs(other).max())


def test_choices_are_sent_where_their_slots_are_fewer_than_all_tokens():
    shape = (4, 4096, 2)  # of a device, k = 2
    assert sends_choices(shape, num_experts=8, capacity=1024, num_devices=4)  # 2 slots a token, 4 devices
    assert not sends_choices(shape, num_experts=8, capacity=2048, num_devices=4)
    assert not sends_choices(shape, num_experts=8, capacity=1024, num_devices=2)


def test_chunks_are_equal_and_their_slots_small(monkeypatch):
    monkeypatch.setattr(expert_exchange, "MOST_SLOT_BYTES", 1000)
    assert num_chunks(10, 100) == 1
    assert num_chunks(12, 250) == 3
    assert num_chunks(10, 250) == 5  # 3 and 4 do not divide ten tokens
    assert num_chunks(7, 10_000) == 7
