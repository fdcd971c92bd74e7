"""What a device sees of rows and parameters, and what it gives back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from flaxmill.sharding.local_rows import (
    gather,
    gradients_sent_as,
    on_local_rows,
    parameter_spec,
    rows_spec,
    scatter,
    sum_gradients,
    sum_over_rows,
    weights_are_split,
)
from flaxmill.sharding.mesh import MeshConfig, make_mesh

AXES = ("embed", "mlp")
MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2)]


def mesh_of(shape):
    return make_mesh(MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2]))


def run_on(mesh, run, *arguments, in_specs, out_specs):
    with jax.set_mesh(mesh):
        return jax.jit(on_local_rows(run, mesh, in_specs, out_specs))(*arguments)


@pytest.mark.parametrize("shape", MESHES)
def test_a_device_sees_its_own_rows_and_the_whole_weight(shape):
    mesh = mesh_of(shape)
    rows, weight = jnp.arange(16.0)[:, None], jnp.arange(8 * 4.0).reshape(8, 4)
    seen = []

    def run(rows, shard):
        seen.append((rows.shape[0], shard.shape[0], weights_are_split()))
        whole = gather(shard, AXES, jnp.float32)
        return rows + whole.sum()

    specs = (rows_spec(mesh), parameter_spec(mesh, AXES))
    got = run_on(mesh, run, rows, weight, in_specs=specs, out_specs=rows_spec(mesh))
    np.testing.assert_array_equal(got, rows + weight.sum())
    data, fsdp, _ = shape
    assert seen[-1] == (16 // (data * fsdp), 8 // fsdp, fsdp > 1)


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("axes", [AXES, ("features",), ("layers", "mlp", "embed")])
def test_gradients_of_all_devices_are_summed_once(shape, axes):
    """Each row adds its number to every entry."""
    mesh = mesh_of(shape)
    sizes = {"embed": 8, "mlp": 4, "features": 5, "layers": 3}
    weight, rows = jnp.zeros([sizes[axis] for axis in axes]), jnp.arange(16.0)

    def run(rows, shard):
        whole = gather(shard, axes, jnp.float32)
        return sum_gradients({"w": scatter(jnp.full(whole.shape, rows.sum()), axes)}, {"w": axes})["w"]

    spec = parameter_spec(mesh, axes)
    got = run_on(mesh, run, rows, weight, in_specs=(rows_spec(mesh), spec), out_specs=spec)
    assert got.shape == weight.shape
    np.testing.assert_array_equal(got, np.full(weight.shape, 120.0))


def test_sums_over_rows_are_the_same_on_every_device():
    mesh = mesh_of((2, 4, 1))
    sums = lambda rows: sum_over_rows({"loss": rows.sum(), "rows": jnp.float32(len(rows))})  # noqa: E731
    got = run_on(mesh, sums, jnp.arange(16.0), in_specs=(rows_spec(mesh),), out_specs=PartitionSpec())
    assert (float(got["loss"]), float(got["rows"])) == (120.0, 16.0)


def test_sums_over_copies_are_sent_in_the_gradients_dtype():
    mesh = mesh_of((8, 1, 1))

    def run(rows):
        with gradients_sent_as(jnp.bfloat16):
            return sum_gradients(rows, ("features",))

    # 1.001 is 1 in bfloat16.
    got = run_on(mesh, run, jnp.full(8, 1.001), in_specs=(rows_spec(mesh),), out_specs=PartitionSpec())
    assert got.dtype == jnp.float32
    assert (got == 8).all()
