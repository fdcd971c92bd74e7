"""Sums, losses and tokens of each source of a mixture, beside those of the whole batch."""

# B rows of a batch, K sources

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flaxmill.model.transformer import Batch

SOURCES = "sources"
"""The name of a batch's int32 [B]: which source each row is from."""
BY_SOURCE = "by_source"
"""The name of the sums [K] among the sums of a batch."""


def add_by_source(values: jax.Array, batch: Batch, num_sources: int) -> jax.Array:
    """float32 [K]: the sums of values [B] or [B,T] over the rows of each source."""
    of_rows_B = values.astype(jnp.float32).reshape(values.shape[0], -1).sum(1)
    is_from_BK = batch[SOURCES][:, None] == jnp.arange(num_sources)
    # Not a matrix product, which accelerators would round to bfloat16.
    return jnp.where(is_from_BK, of_rows_B[:, None], 0.0).sum(0)


def of_each(named: Mapping[str, jax.Array], batch: Batch, num_sources: int) -> dict[str, Any]:
    """The sums of each source under BY_SOURCE, or nothing where a batch has no sources."""
    if not num_sources:
        return {}
    return {BY_SOURCE: {name: add_by_source(values, batch, num_sources) for name, values in named.items()}}
