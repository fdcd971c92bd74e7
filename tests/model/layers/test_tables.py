"""Looking ids up in a table that is divided over devices, and the gradient it gets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model.layers.tables import VOCABULARY, look_up, open_table
from flaxmill.sharding.local_rows import on_local_rows, parameter_spec, rows_spec, sum_gradients
from flaxmill.sharding.mesh import MeshConfig, make_mesh

B, T, D, V = 8, 6, 16, 128
MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]
TABLES = [VOCABULARY, ("positions", "embed")]


@pytest.mark.parametrize("mesh_shape", MESHES)
@pytest.mark.parametrize("axes", TABLES)
def test_vectors_and_gradient_equal_plain_indexing_on_every_mesh(mesh_shape, axes):
    keys = jax.random.split(jax.random.key(0), 3)
    table_VD, ids_BT = jax.random.normal(keys[0], (V, D)), jax.random.randint(keys[1], (B, T), 0, 20)
    g_BTD = jax.random.normal(keys[2], (B, T, D))
    mesh = make_mesh(MeshConfig(data=mesh_shape[0], fsdp=mesh_shape[1], tensor=mesh_shape[2]))

    def on_device(table_VD, ids_BT, g_BTD):
        found, pull = jax.vjp(lambda t: look_up(open_table(t, axes, jnp.float32), ids_BT), table_VD)
        return found, sum_gradients(pull(g_BTD)[0], axes)

    rows, table = rows_spec(mesh), parameter_spec(mesh, axes)
    with jax.set_mesh(mesh):
        run = jax.jit(on_local_rows(on_device, mesh, (table, rows, rows), (rows, table)))
        found, gradient = run(table_VD, ids_BT, g_BTD)
    np.testing.assert_array_equal(found, table_VD[ids_BT])
    expected = jnp.zeros((V, D)).at[ids_BT].add(g_BTD)
    # float32 sums over the same few ids in another order
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)


def test_equal_ids_are_summed_in_float32():
    """257 times one: bfloat16 has no number between 256 and 258."""
    ids_BT = jnp.full((1, 257), 3)

    def found(table_VD):
        return look_up(open_table(table_VD, VOCABULARY, jnp.bfloat16), ids_BT).astype(jnp.float32).sum()

    gradient = jax.grad(found)(jnp.ones((V, D)))
    assert (gradient[3] == 257).all()
    assert not gradient[4:].any()
