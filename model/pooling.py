"""Texts as vectors: the hidden states of a text's tokens, pooled into one."""

# B batch, T tokens, G texts of a row, D model

from typing import get_args

import jax
import jax.numpy as jnp

from flaxmill.model.fields import TextPooling
from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.sharding.local_tokens import greatest_part, sum_parts

LEAST_LENGTH = 1e-12
"""Vectors shorter than this are divided by it, as PyTorch's `normalize` does."""


def pool(hidden_BTD: jax.Array, mask_BT: jax.Array, how: TextPooling = "mean") -> jax.Array:
    """float32 [B,D]: one vector a row, of the tokens whose mask is not 0, on whichever side padding is.

    Of n tokens it is, by `how`, their mean; the first (cls); the greatest of each dimension (max); the last;
    their sum / sqrt(n) (mean_sqrt_len); or their mean with weights 1 to n (weighted_mean: Muennighoff 2022,
    eq. 3).

    A row without any has the vector 0. It may be differentiated and compiled; `how` is static.
    """
    return pool_documents(hidden_BTD, (mask_BT > 0).astype(jnp.int32), 1, how)[:, 0]


def pool_documents(
    hidden_BTD: jax.Array,
    documents_BT: jax.Array,
    num_documents: int,
    how: TextPooling = "mean",
    positions_BT: jax.Array | None = None,
) -> jax.Array:
    """float32 [B,G,D]: a vector for each of the documents 1 to `num_documents` that share a row.

    Args:
      documents_BT: int32; the document of each token, 0 at padding. A document that a row lacks has the
        vector 0.
      positions_BT: int32; the place of each token in its document, from 0; needed where several devices
        share a row. None: the tokens of a document are counted.
    """
    hidden_BTD = hidden_BTD.astype(sum_dtype(hidden_BTD))
    is_in_BGT = documents_BT[:, None] == jnp.arange(1, num_documents + 1)[None, :, None]
    if how == "max":
        return _greatest(hidden_BTD, is_in_BGT)
    counted_BGT = jnp.cumsum(is_in_BGT, -1) if positions_BT is None else positions_BT[:, None] + 1
    number_BGT = jnp.where(is_in_BGT, counted_BGT, 0)  # 1 at a document's first token
    weights_BGT = _weights(is_in_BGT, number_BGT, how).astype(hidden_BTD.dtype)
    return sum_parts(jnp.einsum("BGT,BTD->BGD", weights_BGT, hidden_BTD))


def normalize(vectors: jax.Array) -> jax.Array:
    """[..., D]: the vectors with length 1; the vector 0 stays 0, and its gradient is finite."""
    squares = (vectors * vectors).sum(-1, keepdims=True)
    # The root is never taken of 0, where its gradient is infinite.
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, LEAST_LENGTH**2))


def _greatest(hidden_BTD: jax.Array, is_in_BGT: jax.Array) -> jax.Array:
    """[B,G,D]: the greatest of each dimension over a document's tokens."""
    own_BGD = jnp.where(is_in_BGT[..., None], hidden_BTD[:, None], -jnp.inf).max(2)
    # Of devices that share a row those with the greatest give it, and get the gradient, in equal parts.
    gives_BGD = own_BGD == greatest_part(jax.lax.stop_gradient(own_BGD))
    shares_BGD = jnp.where(gives_BGD, own_BGD, 0) / sum_parts(gives_BGD.astype(own_BGD.dtype))
    exists_BG1 = greatest_part(is_in_BGT.any(-1, keepdims=True).astype(jnp.int32)) > 0
    return jnp.where(exists_BG1, sum_parts(shares_BGD), 0)


def _weights(is_in_BGT: jax.Array, number_BGT: jax.Array, how: TextPooling) -> jax.Array:
    """[B,G,T]: how much each token counts in each document's vector, from its number in the document."""
    count_BG1 = jnp.maximum(sum_parts(is_in_BGT.sum(-1, keepdims=True)), 1)
    match how:
        case "cls":
            return number_BGT == 1
        case "last":
            return number_BGT == count_BG1
        case "mean":
            return is_in_BGT / count_BG1
        case "mean_sqrt_len":
            return is_in_BGT / jnp.sqrt(count_BG1)
        case "weighted_mean":
            return number_BGT / jnp.maximum(sum_parts(number_BGT.sum(-1, keepdims=True)), 1)
    raise ValueError(f"pooling={how!r} is not known; use one of {', '.join(get_args(TextPooling))}")
