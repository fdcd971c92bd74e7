"""The dense primitive and its written-out gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model.layers.dense import dense

SHAPES = [((5, 7, 6), (6, 9), 1), ((5, 7, 6), (6, 3, 4), 1), ((5, 7, 3, 4), (3, 4, 6), 2)]


@pytest.mark.parametrize(("x_shape", "kernel_shape", "num_in"), SHAPES)
def test_value_and_gradients_equal_jaxs_own(x_shape, kernel_shape, num_in):
    keys = jax.random.split(jax.random.key(0), 2)
    x, kernel = jax.random.normal(keys[0], x_shape), jax.random.normal(keys[1], kernel_shape)

    def objective(product):
        return lambda x, kernel: jnp.sin(product(x, kernel)).sum()

    ours = jax.value_and_grad(objective(lambda x, w: dense(x, w, num_in)), (0, 1))(x, kernel)
    plain = jax.value_and_grad(objective(lambda x, w: jnp.tensordot(x, w, num_in)), (0, 1))(x, kernel)
    for ours_leaf, plain_leaf in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        # float32 sums of at most 35 terms in another order
        np.testing.assert_allclose(ours_leaf, plain_leaf, rtol=1e-5, atol=1e-5)


def test_gradients_keep_the_dtype_of_their_arguments():
    x, kernel = jnp.ones((4, 8), jnp.bfloat16), jnp.ones((8, 2), jnp.bfloat16)
    dx, dkernel = jax.grad(lambda x, w: dense(x, w).astype(jnp.float32).sum(), (0, 1))(x, kernel)
    assert dx.dtype == dkernel.dtype == jnp.bfloat16
