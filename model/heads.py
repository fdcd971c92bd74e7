"""The heads on the Transformer's body: language-model heads, poolers and classifiers."""

# B batch, T tokens, P predicted places, D model, V vocab

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmill.model.config import ModelConfig
from flaxmill.model.layers.dense import Dense
from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.model.layers.initializers import Parameter, kernel_initializer, make_parameter
from flaxmill.model.layers.mlp import activation
from flaxmill.model.layers.norms import Norm
from flaxmill.model.layers.tables import VOCABULARY
from flaxmill.sharding.local_tokens import first_token, greatest_part, places_in_row, sum_parts, token_at
from flaxmill.sharding.rules import constrain

HEAD_PARAMETERS = ("lm_head", "mlm", "pooler", "nsp", "classifier")
"""Top-level groups of the parameters that do not belong to the body."""
NUM_NSP_CLASSES = 2  # 0: the second segment follows the first; 1: it is random


class LanguageModelHead(nnx.Module):
    """An untied output matrix, [V, D] like the embedding so that one loss serves tied and untied; and a bias
    of the logits. Either may be absent."""

    def __init__(self, key: jax.Array, config: ModelConfig) -> None:
        self.kernel = None if config.tie_embeddings else _output_kernel(key, config)
        self.bias = _output_bias(config) if config.head_bias else None


class MaskedLanguageModelHead(nnx.Module):
    """BERT's head: dense, activation, norm; the decoder, tied to the embedding or not, has its own bias."""

    def __init__(self, key: jax.Array, config: ModelConfig) -> None:
        keys = jax.random.split(key, 2)
        self.activation = config.activation
        self.transform = _square(keys[0], config, config.use_bias)
        self.norm = Norm(config)
        self.kernel = None if config.tie_embeddings else _output_kernel(keys[1], config)
        self.bias = _output_bias(config)

    def __call__(self, hidden_BPD: jax.Array) -> jax.Array:
        """The decoder's input, in the same shape."""
        # Keep rows on their devices: else the partitioner gathers the batch instead of the small weights.
        hidden_BPD = constrain(hidden_BPD, "batch", None, None)
        hidden_BPD = activation(self.activation)(self.transform(hidden_BPD))
        return constrain(self.norm(hidden_BPD), "batch", None, None)


class Pooler(nnx.Module):
    """What a classifier reads: BERT's tanh of a projection, or ModernBERT's projection, activation, norm."""

    def __init__(self, key: jax.Array, config: ModelConfig) -> None:
        is_tanh = config.pooler_kind == "tanh"
        self.activation = "tanh" if is_tanh else config.activation
        self.transform = _square(key, config, is_tanh or config.use_bias)
        self.norm = None if is_tanh else Norm(config)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] in and out."""
        x = activation(self.activation)(self.transform(x))
        return x if self.norm is None else self.norm(x)


def next_sentence_classifier(key: jax.Array, config: ModelConfig) -> Dense:
    """BERT's two-class decision on the pooled first token."""
    return _to_classes(key, config, NUM_NSP_CLASSES, use_bias=True)


def task_classifier(key: jax.Array, config: ModelConfig) -> Dense:
    """The linear decision on a pooled row, or on every token."""
    assert config.num_classes is not None
    reads_last = config.head == "classification" and config.pooled_place == "last"  # such heads have no bias
    return _to_classes(key, config, config.num_classes, use_bias=not reads_last)


def pool(config: ModelConfig, hidden_BTD: jax.Array, documents_BT: jax.Array) -> jax.Array:
    """[B,D]: what `config.pooled_place` takes from each row; padding has document number 0."""
    if config.pooled_place == "first" or config.head == "mlm_nsp":
        return constrain(first_token(hidden_BTD), "batch", None)
    is_real_BT = documents_BT > 0
    if config.pooled_place == "last":
        last_B = jnp.where(is_real_BT, places_in_row(is_real_BT.shape[1]), 0).max(1)
        return token_at(hidden_BTD, greatest_part(last_B))
    weights_BT1 = is_real_BT[..., None].astype(sum_dtype(hidden_BTD))
    sum_BD, weight_B1 = sum_parts(((hidden_BTD * weights_BT1).sum(1), weights_BT1.sum(1)))
    return (sum_BD / jnp.maximum(weight_B1, 1)).astype(hidden_BTD.dtype)


def _square(key: jax.Array, config: ModelConfig, use_bias: bool) -> Dense:
    width = (config.embed_dim,)
    return Dense(key, width, width, ("embed", "features"), kernel_initializer(config), use_bias)


def _to_classes(key: jax.Array, config: ModelConfig, num_classes: int, use_bias: bool) -> Dense:
    make = kernel_initializer(config)
    return Dense(key, (config.embed_dim,), (num_classes,), ("embed", "features"), make, use_bias)


def _output_kernel(key: jax.Array, config: ModelConfig) -> Parameter:
    assert config.vocab_size is not None
    values = kernel_initializer(config)(key, (config.padded_vocab_size, config.embed_dim), 1)
    used = jnp.arange(config.padded_vocab_size)[:, None] < config.vocab_size
    return make_parameter(jnp.where(used, values, 0), VOCABULARY)


def _output_bias(config: ModelConfig) -> Parameter:
    return make_parameter(jnp.zeros(config.padded_vocab_size), ("vocab",))
