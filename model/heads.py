"""What stands on the Transformer's body: language-model, masked-language-model and next-sentence heads."""

# B batch, P predicted places, D model, V vocab

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmill.model.config import ModelConfig
from flaxmill.model.dense import Dense
from flaxmill.model.initializers import kernel_initializer, make_parameter
from flaxmill.model.mlp import activation
from flaxmill.model.norms import Norm
from flaxmill.sharding.rules import constrain

NUM_NSP_CLASSES = 2  # 0: the second segment follows the first; 1: it is random


class LanguageModelHead(nnx.Module):
    """An output matrix of its own, [V, D] like the embedding, so that one loss serves tied and untied."""

    def __init__(self, key: jax.Array, config: ModelConfig) -> None:
        self.kernel = _output_kernel(key, config)


class MaskedLanguageModelHead(nnx.Module):
    """BERT's: dense, activation, norm; the decoder is tied to the embedding and has its own bias."""

    def __init__(self, key: jax.Array, config: ModelConfig) -> None:
        keys = jax.random.split(key, 2)
        width = (config.embed_dim,)
        self.activation = config.activation
        make = kernel_initializer(config)
        self.transform = Dense(keys[0], width, width, ("embed", "features"), make, config.use_bias)
        self.norm = Norm(config)
        self.kernel = None if config.tie_embeddings else _output_kernel(keys[1], config)
        self.bias = make_parameter(jnp.zeros(config.padded_vocab_size), ("vocab",))

    def __call__(self, hidden_BPD: jax.Array) -> jax.Array:
        """What the decoder multiplies, same shape."""
        # Held to the rows' devices: else the partitioner gathers the batch instead of the small weights.
        hidden_BPD = constrain(hidden_BPD, "batch", None, None)
        hidden_BPD = activation(self.activation)(self.transform(hidden_BPD))
        return constrain(self.norm(hidden_BPD), "batch", None, None)


class NextSentenceHead(nnx.Module):
    """BERT's pooler (tanh of a projection of the first token) and the two-class decision."""

    def __init__(self, key: jax.Array, config: ModelConfig) -> None:
        keys = jax.random.split(key, 2)
        width, make = (config.embed_dim,), kernel_initializer(config)
        self.pooler = Dense(keys[0], width, width, ("embed", "features"), make, use_bias=True)
        classes = (NUM_NSP_CLASSES,)
        self.classifier = Dense(keys[1], width, classes, ("embed", "features"), make, use_bias=True)

    def __call__(self, hidden_BTD: jax.Array) -> jax.Array:
        """float32 logits [B, 2]."""
        first_BD = constrain(hidden_BTD[:, 0], "batch", None)
        pooled_BD = constrain(jnp.tanh(self.pooler(first_BD)), "batch", None)
        return constrain(self.classifier(pooled_BD), "batch", None).astype(jnp.float32)


def _output_kernel(key: jax.Array, config: ModelConfig):
    assert config.vocab_size is not None
    values = kernel_initializer(config)(key, (config.padded_vocab_size, config.embed_dim), 1)
    used = jnp.arange(config.padded_vocab_size)[:, None] < config.vocab_size
    return make_parameter(jnp.where(used, values, 0), ("vocab", "embed"))
