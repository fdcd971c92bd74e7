"""The matrix products of a training step, for step.py: each shape compiled on its own."""

# M rows, K inputs, F outputs, B batch, N heads, T query tokens, S key tokens, H head dim

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from mfu import num_predictions

from flaxmill.model.layers.attention import block_size, prefers_blocks
from flaxmill.model.layers.dense import product, sum_over_rows
from flaxmill.train.experiment import Experiment

Counted = tuple[Callable[[], Any], int]
"""A product, and how often a step has it."""


def compile_products(experiment: Experiment) -> list[Counted]:
    """The products of the layers, of attention and of the head, forward and backward."""
    config, B, T = experiment.model, experiment.batch_size, experiment.data.sequence_length
    D, dtype, causal = config.embed_dim, jnp.dtype(config.dtype), bool(config.causal)
    predicted = B * (num_predictions(experiment) or T)
    # An encoder-decoder reads as many tokens as it writes; its decoder attends twice.
    encoders = config.encoder_layers or 0
    L = config.num_layers + encoders
    projections = 4 * (L + (config.num_layers if encoders else 0))
    counted = [*_dense(B * T, D, D, projections, dtype), *_dense(B * T, D, config.hidden_dim, L, dtype)]
    counted += _dense(B * T, config.hidden_dim, D, L, dtype)
    counted += _attention(experiment, config.num_layers, causal)
    counted += _attention(experiment, 2 * encoders, causal=False) if encoders else []
    if config.head != "classification":
        counted += _dense(predicted, D, config.vocab_size or 0, 1, dtype)
    return [*counted, *_dense(predicted, D, D, 1, dtype)] if config.head == "mlm_nsp" else counted


def _dense(M: int, K: int, F: int, number: int, dtype: Any) -> Iterator[Counted]:
    """Of a weight: y = x w, dx = dy w^T, dw = x^T dy."""
    x, w, dy = (jnp.ones(shape, dtype) for shape in ((M, K), (K, F), (M, F)))
    yield _compiled(lambda x, w: product(x, w, 1, 0), x, w), number
    yield _compiled(lambda dy, w: product(dy, w, 1, 1), dy, w), number
    yield _compiled(lambda x, dy: sum_over_rows(x, dy, jnp.float32), x, dy), number


def _attention(experiment: Experiment, number: int, causal: bool) -> Iterator[Counted]:
    """Of so many layers: of all pairs of tokens; in long rows, of the blocks with visible pairs, whose logits
    are made twice."""
    config, B, T = experiment.model, experiment.batch_size, experiment.data.sequence_length
    size, blocks, logits = T, 1, 1
    if prefers_blocks(T, causal=causal):
        size, across = block_size(), T // block_size()
        blocks, logits = across * (across + 1) // 2 if causal else across**2, 2
    shape, number = (B, config.num_heads, size), number * blocks
    vectors = jnp.ones((*shape, config.dim_per_head), config.dtype)
    pairs = jnp.ones((*shape, size), config.dtype)
    for equation, x, y, times in (
        ("BNTH,BNSH->BNTS", vectors, vectors, logits + 1),  # logits, and gradients of probabilities
        ("BNTS,BNSH->BNTH", pairs, vectors, 2),  # the mix, and gradients of queries
        ("BNTH,BNTS->BNHS", vectors, pairs, 2),  # gradients of keys and values
    ):
        yield _compiled(functools.partial(_multiply, equation), x, y), number * times


def _multiply(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32).astype(x.dtype)


def _compiled(multiply: Callable[..., jax.Array], *arrays: jax.Array) -> Callable[[], Any]:
    run = jax.jit(multiply).lower(*arrays).compile()
    return lambda: jax.block_until_ready(run(*arrays))
