"""What devices with different experts send each other, and its transposes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.sharding.local_experts import exchange_parts, gather_rows, num_groups, own_choices, sum_rows
from flaxmill.sharding.local_rows import gather, on_local_rows, parameter_spec, rows_spec, sum_gradients
from flaxmill.sharding.mesh import MeshConfig, make_mesh

MESHES = [{"expert": 8}, {"data": 2, "expert": 4}, {"fsdp": 2, "expert": 2, "tensor": 2}]


def run_on(mesh, run, *arguments, out_specs=None):
    """`run` on each device's rows of the arguments."""
    on_mesh = make_mesh(MeshConfig(**{"data": 1, **mesh}))
    spec = rows_spec(on_mesh)
    with jax.set_mesh(on_mesh):
        run = on_local_rows(run, on_mesh, (spec,) * len(arguments), out_specs or spec)
        return jax.jit(run)(*arguments)


def test_all_experts_are_a_device_s_own_without_the_axis():
    assert num_groups() == 1
    assert run_on({"data": 8}, lambda x: x + num_groups(), jnp.zeros(8)).tolist() == [1] * 8


def test_a_device_counts_its_own_experts_from_zero():
    found = run_on({"expert": 4}, lambda x: own_choices(x, 2), jnp.tile(jnp.array([0, 3, 4, 8]), 4))
    # Experts 0 and 1, 2 and 3, and so on; 8 is the expert of padding.
    assert found.reshape(4, 4).tolist() == [[0, 2, 2, 2], [2, 1, 2, 2], [2, 2, 0, 2], [2, 2, 2, 2]]


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_come_from_the_group_and_sums_go_back(mesh, dtype):
    size = mesh["expert"]
    rows = jnp.arange(16.0, dtype=dtype).reshape(16, 1)
    number = jax.random.permutation(jax.random.key(0), 16).astype(dtype).reshape(16, 1)

    def loss(x, number):
        together = gather_rows(x)
        assert len(together) == size * len(x)
        return (sum_rows(together * together) * number).sum()

    value = run_on(mesh, lambda x, n: sum_rows(gather_rows(x)), rows, number)
    np.testing.assert_array_equal(value, size * rows)
    gradient = run_on(mesh, jax.grad(loss), rows, number)
    # Each device computes every row's square: size * x^2 * number.
    np.testing.assert_allclose(gradient, size * 2 * rows * number, rtol=0.01 if dtype == "bfloat16" else 1e-6)


def test_whole_numbers_are_gathered_too():
    numbers = jnp.arange(8)
    assert run_on({"expert": 8}, lambda x: gather_rows(x)[None].sum(1), numbers).tolist() == [28] * 8


def test_parts_change_places_and_back():
    numbers = jnp.arange(64).reshape(64, 1)
    once = run_on({"expert": 8}, exchange_parts, numbers).reshape(8, 8)
    np.testing.assert_array_equal(once, np.arange(64).reshape(8, 8).T)
    np.testing.assert_array_equal(
        run_on({"expert": 8}, lambda x: exchange_parts(exchange_parts(x)), numbers), numbers
    )


def test_experts_are_not_gathered_and_their_gradients_not_summed_over_the_axis():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, expert=2))
    axes = ("experts", "embed", "expert_mlp")
    weight = jnp.arange(4 * 6 * 2.0).reshape(4, 6, 2)
    seen = []

    def run(shard):
        seen.append(gather(shard, axes, jnp.float32).shape)
        return sum_gradients(shard, axes)

    spec = parameter_spec(mesh, axes)
    with jax.set_mesh(mesh):
        found = jax.jit(on_local_rows(run, mesh, (spec,), spec))(weight)
    assert seen[-1] == (2, 6, 2)
    np.testing.assert_array_equal(found, 2 * weight)  # over data alone
