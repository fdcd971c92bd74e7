"""The mix of values and its gradient, written out for CPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model.layers.all_pairs import Mixing, Pairs, _mix, _mix_by_hand

B, T, S, K, G, H = 2, 5, 7, 2, 3, 4
SHAPES = ((B, K, G, T, H), (B, K, S, H), (B, K, S, H))


def gradients(mix, mixing: Mixing, pairs: Pairs, dtype, of: int):
    """The values mixed, and the gradients of queries, keys, values and the bias if there is one."""
    keys = jax.random.split(jax.random.key(of), 4)
    arrays = [jax.random.normal(key, shape, dtype) for key, shape in zip(keys[:3], SHAPES, strict=True)]
    dout = jax.random.normal(keys[3], SHAPES[0], dtype)

    def run(bias, q, k, v):
        return mix(mixing, q, k, v, pairs._replace(bias=bias))

    out, pull_back = jax.vjp(run, pairs.bias, *arrays)
    return [out, *(x for x in pull_back(dout) if x is not None)]


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("share_kept", [1.0, 0.75])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_gradients_by_hand_are_jaxs_own(has_bias, share_kept, dtype):
    sees = jax.random.bernoulli(jax.random.key(5), 0.6, (B, T, S)).at[:, 1].set(False)
    keep = jax.random.bernoulli(jax.random.key(6), share_kept, (B, K, G, T, S)) if share_kept < 1 else None
    with jax.enable_x64(dtype == jnp.float64):
        bias = jax.random.normal(jax.random.key(7), (K, G, T, S), jnp.promote_types(dtype, jnp.float32))
        pairs = Pairs(sees, bias if has_bias else None, keep)
        mixing = Mixing(0.5, share_kept, some_see_nothing=True)
        found = gradients(_mix_by_hand, mixing, pairs, dtype, 0)
        wanted = gradients(_mix, mixing, pairs, dtype, 0)
    assert len(found) == 4 + has_bias
    # Some roundings of numbers of size one; bfloat16 rounds probabilities before, and exponentials now.
    tolerance = {jnp.float32: 3e-6, jnp.float64: 1e-13, jnp.bfloat16: 0.03}[dtype]
    for x, y in zip(found, wanted, strict=True):
        assert x.dtype == y.dtype
        scale = float(jnp.abs(y.astype(jnp.float32)).max())
        np.testing.assert_allclose(
            np.asarray(x, np.float64), np.asarray(y, np.float64), atol=tolerance * scale, rtol=0
        )


def test_queries_that_see_nothing_give_no_gradient_to_keys():
    pairs = Pairs(jnp.zeros((B, T, S), bool))
    out, dq, dk, dv = gradients(_mix_by_hand, Mixing(0.5, some_see_nothing=True), pairs, jnp.float32, 1)
    assert np.isfinite(out).all()
    assert not dq.any()
    assert not dk.any()
    assert dv.any()  # they read the mean of all values
