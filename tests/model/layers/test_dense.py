"""The dense primitive and its written-out gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model.layers import dense as dense_module
from flaxmill.model.layers.dense import dense, sum_over_rows
from flaxmill.sharding.local_rows import (
    gradients_sent_as,
    on_local_rows,
    parameter_spec,
    rows_spec,
    sum_gradients,
)
from flaxmill.sharding.mesh import MeshConfig, make_mesh

SHAPES = [
    ((8, 7, 8), ("embed", "mlp"), (8, 6), 1),
    ((8, 7, 8), ("embed", "heads", "head_dim"), (8, 2, 4), 1),
    ((8, 7, 2, 4), ("heads", "head_dim", "embed"), (2, 4, 8), 2),
]
MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 2), (2, 2, 2)]


def arrays(x_shape, kernel_shape):
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], x_shape), jax.random.normal(keys[1], kernel_shape)


def objective(product, finish=lambda y: y.astype(jnp.float32)):
    return lambda x, kernel: finish(product(x, kernel)).sum()


@pytest.mark.parametrize("mesh_shape", MESHES)
@pytest.mark.parametrize(("x_shape", "axes", "kernel_shape", "num_in"), SHAPES)
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_gradients_equal_jaxs_own_on_every_mesh(
    monkeypatch, x_shape, axes, kernel_shape, num_in, mesh_shape, platform
):
    monkeypatch.setattr(dense_module, "platform", lambda: platform)
    x, kernel = arrays(x_shape, kernel_shape)
    plain = jax.grad(objective(lambda x, w: jnp.tensordot(x, w, num_in), jnp.sin), (0, 1))(x, kernel)
    mesh = make_mesh(MeshConfig(data=mesh_shape[0], fsdp=mesh_shape[1], tensor=mesh_shape[2]))

    def on_device(x, kernel):
        dx, dkernel = jax.grad(objective(lambda x, w: dense(x, w, axes, num_in), jnp.sin), (0, 1))(x, kernel)
        return dx, sum_gradients(dkernel, axes)

    specs = (rows_spec(mesh), parameter_spec(mesh, axes))
    with jax.set_mesh(mesh):
        ours = jax.jit(on_local_rows(on_device, mesh, specs, specs))(x, kernel)
    for ours_leaf, plain_leaf in zip(ours, plain, strict=True):
        # float32 sums of at most 56 terms in another order
        np.testing.assert_allclose(ours_leaf, plain_leaf, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_weight_leaves_a_bfloat16_product_in_the_dtype_that_is_sent():
    """257 ones: bfloat16 has no number between 256 and 258."""
    x, kernel = jnp.ones((257, 8), jnp.bfloat16), jnp.ones((8, 2))

    def gradients(dtype):
        with gradients_sent_as(dtype):
            return jax.grad(objective(lambda x, w: dense(x, w, ("embed", "mlp"))), (0, 1))(x, kernel)

    dx, dkernel = gradients(jnp.float32)
    assert (dx.dtype, dkernel.dtype) == (jnp.bfloat16, jnp.float32)
    assert (dkernel == 257).all()
    assert (gradients(jnp.bfloat16)[1] == 256).all()


def test_a_weight_is_gathered_once_in_the_compute_dtype_and_its_gradient_scattered_once():
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    axes, rows = ("embed", "mlp"), rows_spec(mesh)

    def on_device(x, kernel):
        return jax.grad(lambda w: jnp.sin(dense(x, w, axes).astype(jnp.float32)).sum())(kernel)

    spec = parameter_spec(mesh, axes)
    run = jax.jit(on_local_rows(on_device, mesh, (rows, spec), spec))
    with jax.set_mesh(mesh):
        text = run.lower(jnp.ones((8, 4, 16), jnp.bfloat16), jnp.ones((16, 32))).as_text()
    assert text.count("stablehlo.reduce_scatter") == 1
    gathers = [line for line in text.splitlines() if "stablehlo.all_gather" in line]
    assert len(gathers) == 1
    assert "bf16" in gathers[0]
    assert "f32" not in gathers[0]


@pytest.mark.parametrize(("num_in", "num_out"), [(6, 40), (3, 200), (200, 3), (1, 1)])
def test_bfloat16_is_summed_in_float32_over_rows_of_any_shape(num_in, num_out):
    keys = jax.random.split(jax.random.key(1), 2)
    x, g = (
        jax.random.normal(key, (512, n), jnp.bfloat16) for key, n in zip(keys, (num_in, num_out), strict=True)
    )
    found = jax.jit(lambda x, g: sum_over_rows(x, g, jnp.float32))(x, g)
    wanted = np.asarray(x, np.float64).T @ np.asarray(g, np.float64)
    # Roundings of float32 in 512 terms; a sum in bfloat16 would be off by 1e-2.
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
