"""Positions of tokens: sinusoidal tables, rotary turns, relative biases; embeddings.py has learned ones."""

# B batch, T query tokens, S key tokens, N heads, H head dim, R pairs of dimensions that turn

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import LayerKind
from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.model.layers.initializers import embedding_initializer, make_parameter
from flaxmill.model.layers.rotary_scaling import (
    frequencies_by_length,
    rotary_factor,
    rotary_frequencies,
    stretches,
)


def sinusoidal(positions_BT: jax.Array, dim: int) -> jax.Array:
    """[B,T,dim]: sines in the first half, cosines in the second (Vaswani et al. 2017, 3.5).

    The paper interleaves the two; the halves are the same features in another order, as in Marian.
    """
    frequencies = 10_000.0 ** -(np.arange(dim // 2) / (dim // 2))
    # In two parts: the first has so few bits that float32 multiplies it exactly by a position. A rounded
    # frequency would be off by 3e-5 at position 512.
    mantissa, exponent = np.frexp(frequencies)
    coarse = np.ldexp(np.round(mantissa * 2**10), exponent - 10)
    a, b = _angles(positions_BT, coarse), _angles(positions_BT, frequencies - coarse)
    sin = jnp.sin(a) * jnp.cos(b) + jnp.cos(a) * jnp.sin(b)
    cos = jnp.cos(a) * jnp.cos(b) - jnp.sin(a) * jnp.sin(b)
    return jnp.concatenate([sin, cos], -1)


class Turns(NamedTuple):
    """Cosines and sines [B,T,1,R] of the angle by which each pair of dimensions turns at each token, both
    multiplied by the factor for queries and keys."""

    cos: jax.Array
    sin: jax.Array


def rotary_turns(
    config: ModelConfig, kind: LayerKind, positions_BT: jax.Array, lengths_BT: jax.Array | None = None
) -> Turns:
    """The turns of one kind of layer: position x frequency.

    Args:
      lengths_BT: tokens of each token's document, as far as it has been read; needed where
        `config.turns_by_length`.
    """
    frequencies = rotary_frequencies(config, kind)
    if config.turns_by_length and stretches(config, kind):
        assert lengths_BT is not None
        angles_BTR = positions_BT[..., None] * frequencies_by_length(config, frequencies, lengths_BT)
    else:
        angles_BTR = _angles(positions_BT, frequencies)
    angles_BT1R, factor = angles_BTR[:, :, None], rotary_factor(config, kind)
    cos, sin = jnp.cos(angles_BT1R), jnp.sin(angles_BT1R)
    return Turns(cos, sin) if factor == 1 else Turns(cos * factor, sin * factor)


def document_lengths(documents_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """[B,T]: the last position in each token's document, plus one."""

    def in_row(documents_T: jax.Array, positions_T: jax.Array) -> jax.Array:
        # The first place of a number among the sorted ones: below T, whatever the documents' numbers are.
        index_T = jnp.searchsorted(jnp.sort(documents_T), documents_T)
        last_T = jax.ops.segment_max(positions_T, index_T, num_segments=documents_T.size)
        return last_T[index_T] + 1

    return jax.vmap(in_row)(documents_BT, positions_BT)


def rotary(x_BTNH: jax.Array, turns: Turns) -> jax.Array:
    """Turn the pairs (i, i + R) of the first 2R dimensions of each head (Su et al. 2021, eq. 34)."""
    num_pairs = turns.cos.shape[-1]
    first, second, rest = jnp.split(x_BTNH.astype(sum_dtype(x_BTNH)), [num_pairs, 2 * num_pairs], -1)
    turned = (first * turns.cos - second * turns.sin, second * turns.cos + first * turns.sin)
    return jnp.concatenate([*turned, rest], -1).astype(x_BTNH.dtype)


class RelativeBias(nnx.Module):
    """A bias of the attention logits for each head and bucket of distances (Raffel et al. 2020, 2.1)."""

    def __init__(self, key: jax.Array, config: ModelConfig) -> None:
        self.max_distance = config.relative_max_distance
        self.causal = config.causal is True
        values = embedding_initializer(config)(key, (config.relative_buckets, config.num_heads), 1)
        self.embedding = make_parameter(values, ("positions", "heads"))

    def __call__(self, num_queries: int, num_keys: int) -> jax.Array:
        """[N,T,S] for queries and keys that count from the same place."""
        distances_TS = np.arange(num_keys)[None, :] - np.arange(num_queries)[:, None]
        num_buckets = self.embedding[...].shape[0]
        buckets_TS = relative_buckets(distances_TS, num_buckets, self.max_distance, self.causal)
        return jnp.transpose(self.embedding[...][buckets_TS], (2, 0, 1))

    def to_past(self, num_distances: int) -> jax.Array:
        """[N,S]: the bias between a query and the keys 0, 1, ... places before it."""
        return self(num_distances, 1)[:, :, 0]


def relative_buckets(distances: np.ndarray, num_buckets: int, max_distance: int, causal: bool) -> np.ndarray:
    """The bucket of each distance (key - query): one for each small one, then wider by a constant factor.

    Causal: keys ahead share the bucket of distance 0. Otherwise half of the buckets are for keys ahead.
    """
    if causal:
        first, distances = 0, np.maximum(-distances, 0)
    else:
        num_buckets //= 2
        first, distances = num_buckets * (distances > 0), np.abs(distances)
    num_exact = num_buckets // 2
    # float32 as in the reference: at the borders of buckets the rounding decides.
    logs = np.log(np.maximum(distances, 1).astype(np.float32) / np.float32(num_exact))
    steps = logs / np.float32(math.log(max_distance / num_exact)) * np.float32(num_buckets - num_exact)
    wide = np.minimum(num_exact + steps.astype(np.int64), num_buckets - 1)
    return first + np.where(distances < num_exact, distances, wide)


def _angles(positions_BT: jax.Array, frequencies: np.ndarray) -> jax.Array:
    """[B,T,frequencies]; the frequencies are rounded once, to float32 (float64 in x64 mode)."""
    return positions_BT[..., None] * jnp.asarray(frequencies, jax.dtypes.canonicalize_dtype(np.float64))
