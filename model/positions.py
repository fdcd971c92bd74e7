"""Where a token stands: sinusoidal tables and rotary turns. Learned positions are in embeddings.py."""

import jax
import jax.numpy as jnp


def sinusoidal(positions_BT: jax.Array, dim: int) -> jax.Array:
    """[B,T,dim] float32: sines in the first half, cosines in the second (Vaswani et al. 2017, 3.5).

    The paper interleaves the two; the halves are the same features in another order, as in Marian.
    """
    angles = positions_BT[..., None] / 10_000 ** (jnp.arange(dim // 2) / (dim // 2))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


def rotary(x_BTNH: jax.Array, positions_BT: jax.Array, theta: float) -> jax.Array:
    """Turn the pairs (i, i + H/2) of each head by position x theta^(-2i/H) (Su et al. 2021, eq. 34)."""
    half = x_BTNH.shape[-1] // 2
    angles = positions_BT[:, :, None, None] * theta ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, -1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    return turned.astype(x_BTNH.dtype)
