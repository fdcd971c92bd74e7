"""From token ids to vectors: token, position and segment embeddings."""

# B batch, T tokens, D model, V vocab

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmill.model.config import ModelConfig
from flaxmill.model.layers.dropout import dropout
from flaxmill.model.layers.initializers import embedding_initializer, make_parameter
from flaxmill.model.layers.norms import Norm
from flaxmill.model.layers.positions import sinusoidal
from flaxmill.model.layers.tables import Table, look_up, open_table
from flaxmill.sharding.rules import constrain


class Embedding(nnx.Module):
    """A table [rows, D]; rows past `num_used` are padding that nothing looks up, and stay zero."""

    def __init__(self, key: jax.Array, config: ModelConfig, axis: str, rows: int, num_used: int) -> None:
        values = embedding_initializer(config)(key, (rows, config.embed_dim), 1)
        used = jnp.arange(rows)[:, None] < num_used
        self.axes = (axis, "embed")
        self.embedding = make_parameter(jnp.where(used, values, 0), self.axes)

    def table(self, dtype: str) -> Table:
        return open_table(self.embedding[...], self.axes, dtype)

    def __call__(self, ids: jax.Array, dtype: str) -> jax.Array:
        return look_up(self.table(dtype), ids)


class Embeddings(nnx.Module):
    """Sum of the embeddings of the token, its position and its segment, normalised for BERT."""

    def __init__(self, key: jax.Array, config: ModelConfig) -> None:
        keys = jax.random.split(key, 3)
        assert config.vocab_size is not None
        self.config = config
        self.tokens = Embedding(keys[0], config, "vocab", config.padded_vocab_size, config.vocab_size)
        self.positions = _whole_table(keys[1], config, "positions", _num_positions(config))
        self.segments = _whole_table(keys[2], config, "segments", config.num_segments)
        self.norm = Norm(config) if config.embedding_norm else None

    def __call__(self, batch: dict[str, jax.Array], keys_B: jax.Array | None) -> jax.Array:
        config = self.config
        x_BTD = self.tokens(batch["tokens"], config.dtype)
        if config.scales_embeddings:
            x_BTD = x_BTD * config.embed_dim**0.5  # Vaswani et al. 2017, 3.4
        if config.positions == "sinusoidal":
            x_BTD = x_BTD + sinusoidal(batch["positions"], config.embed_dim).astype(x_BTD.dtype)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(batch["positions"] + config.position_offset, config.dtype)
        if self.segments is not None:
            x_BTD = x_BTD + self.segments(batch["segments"], config.dtype)
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        return constrain(dropout(x_BTD, config.dropout, keys_B), "batch", "residual_tokens", None)


def _num_positions(config: ModelConfig) -> int:
    if config.positions != "learned":
        return 0
    assert config.max_positions is not None, "max_positions is resolved before the model is made"
    return config.position_offset + config.max_positions


def _whole_table(key: jax.Array, config: ModelConfig, axis: str, rows: int) -> Embedding | None:
    return Embedding(key, config, axis, rows, rows) if rows else None
