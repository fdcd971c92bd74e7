"""The dtype in which sums are accumulated."""

import jax
import jax.numpy as jnp


def sum_dtype(x: jax.Array) -> jnp.dtype:
    """float32, or float64 for float64: the dtype of norms, softmax, logits and losses of `x`."""
    return jnp.promote_types(x.dtype, jnp.float32)
