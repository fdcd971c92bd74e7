"""The Transformer: embeddings, an encoder if it has one, the stack of layers, and the heads."""

# B batch, T tokens, S tokens that an encoder reads, D model

import jax
import jax.numpy as jnp

from flaxmill.model.config import ModelConfig, encoder_config
from flaxmill.model.heads import (
    LanguageModelHead,
    MaskedLanguageModelHead,
    Pooler,
    next_sentence_classifier,
    pool,
    task_classifier,
)
from flaxmill.model.layers.dropout import dropout, split_keys
from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.model.layers.embeddings import Embeddings
from flaxmill.model.stack import Batch, Stack
from flaxmill.sharding.rules import constrain

DECODER = "decoder_"  # an encoder-decoder's batch has the decoder's arrays under names that begin so


class Transformer(Stack):
    """The (decoder's) stack of layers, with all that comes before and after it."""

    def __init__(self, key: jax.Array, config: ModelConfig) -> None:
        if config.head is None or config.causal is None or config.vocab_size is None:
            raise ValueError(
                f"model.head={config.head}, model.causal={config.causal} and model.vocab_size="
                f"{config.vocab_size} must be set before a model is made; training derives them"
            )
        keys = jax.random.split(key, 7)
        has_encoder = config.encoder_layers is not None
        super().__init__(keys[0], config, crosses=has_encoder)
        self.embed = Embeddings(keys[1], config)
        self.encoder = Stack(keys[2], encoder_config(config)) if has_encoder else None
        own_head = config.head == "lm" and (config.head_bias or not config.tie_embeddings)
        self.lm_head = LanguageModelHead(keys[3], config) if own_head else None
        has_mlm = config.head in ("mlm", "mlm_nsp")
        self.mlm = MaskedLanguageModelHead(keys[4], config) if has_mlm else None
        self.pooler = Pooler(keys[5], config) if config.pooler_kind != "none" else None
        self.nsp = next_sentence_classifier(keys[6], config) if config.head == "mlm_nsp" else None
        self.classifier = task_classifier(keys[6], config) if config.num_classes is not None else None

    def __call__(
        self, batch: Batch, keys_B: jax.Array | None = None, encoded_BSD: jax.Array | None = None
    ) -> jax.Array:
        """Hidden states [B,T,D] for a completed batch (`complete_batch`); keys of the rows turn dropout on.

        With an encoder they are the decoder's; `encoded_BSD`, if given, is what `encode` returned.
        """
        of_embed, of_layers, of_encoder = split_keys(keys_B, 3)
        if self.encoder is None:
            return self.run(self._embed(batch, of_embed), batch, of_layers)
        encoded_BSD = self.encode(batch, of_encoder) if encoded_BSD is None else encoded_BSD
        own = decoder_batch(batch)
        x_BTD = self._embed(own, of_embed)
        return self.run(x_BTD, own, of_layers, encoded_BSD, batch["documents"])

    def encode(self, batch: Batch, keys_B: jax.Array | None = None) -> jax.Array:
        """The encoder's hidden states [B,S,D] for a completed batch."""
        assert self.encoder is not None
        of_embed, of_layers = split_keys(keys_B, 2)
        with jax.named_scope("encoder"):
            return self.encoder.run(self._embed(batch, of_embed), batch, of_layers)

    def output_table(self) -> tuple[jax.Array, jax.Array | None]:
        """The last matrix [padded V, D] and its bias or None: logits = hidden @ matrix.T + bias."""
        own = self.lm_head if self.mlm is None else self.mlm
        kernel = None if own is None else own.kernel
        table = self.embed.tokens.embedding if kernel is None else kernel
        return table[...], self.output_bias()

    def output_bias(self) -> jax.Array | None:
        """[padded V]: the bias of the logits, if the head has one."""
        own = self.lm_head if self.mlm is None else self.mlm
        return None if own is None or own.bias is None else own.bias[...]

    def before_output(self, hidden: jax.Array) -> jax.Array:
        """What the output table multiplies, from hidden states [..., D]."""
        if self.mlm is not None:
            return self.mlm(hidden)
        return hidden * self.config.embed_dim**-0.5 if self.config.scale_head else hidden

    def pool(self, hidden_BTD: jax.Array, documents_BT: jax.Array) -> jax.Array:
        """[B,D]: what a decision on a whole row reads."""
        pooled_BD = pool(self.config, hidden_BTD, documents_BT)
        return pooled_BD if self.pooler is None else self.pooler(pooled_BD)

    def next_sentence_logits(self, pooled_BD: jax.Array) -> jax.Array:
        """float32 logits [B,2]: the second segment follows, or is random."""
        assert self.nsp is not None
        return _wide(constrain(self.nsp(pooled_BD), "batch", None))

    def class_logits(
        self, hidden_BTD: jax.Array, documents_BT: jax.Array, keys_B: jax.Array | None = None
    ) -> jax.Array:
        """float32 logits of the task's classes: [B,C] for classification, else [B,T,C]."""
        assert self.classifier is not None
        if self.config.head == "classification":
            x = self.pool(hidden_BTD, documents_BT)
        else:
            x = hidden_BTD if self.pooler is None else self.pooler(hidden_BTD)
        return _wide(self.classifier(dropout(x, self.config.dropout, keys_B)))

    def _embed(self, batch: Batch, keys_B: jax.Array | None) -> jax.Array:
        with jax.named_scope("embeddings"):
            return self.embed(batch, keys_B)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(sum_dtype(x))


def complete_batch(config: ModelConfig, batch: Batch) -> Batch:
    """Derive what a batch leaves out: documents, positions, segments; for an encoder-decoder also documents
    and positions of `decoder_tokens`, under names that begin with `decoder_`.

    Without `documents` a row is one document, and padding (mask 0) is document 0. Positions count from the
    first token of each document, so that left padding or packing moves nothing.

    Raises:
      ValueError: no tokens [B,T], rows longer than the learned positions, or an encoder-decoder without
        decoder_tokens.
    """
    if "tokens" not in batch or jnp.ndim(batch["tokens"]) != 2:
        raise ValueError("the batch has no tokens [B,T]; give int32 token ids, one row a text")
    full = _complete(config, batch)
    if config.num_segments and "segments" not in full:
        full["segments"] = jnp.zeros_like(batch["tokens"])
    if config.encoder_layers is None:
        return full
    if "decoder_tokens" not in batch:
        raise ValueError("the batch of an encoder-decoder has no decoder_tokens [B,T]; give what it decodes")
    own = _complete(config, decoder_batch(batch))
    return full | {f"{DECODER}{name}": value for name, value in own.items()}


def decoder_batch(batch: Batch) -> Batch:
    """The decoder's part of a batch, under the names that a stack knows."""
    return {name.removeprefix(DECODER): value for name, value in batch.items() if name.startswith(DECODER)}


def _complete(config: ModelConfig, batch: Batch) -> Batch:
    tokens_BT = batch["tokens"]
    limit = config.max_positions
    if config.positions == "learned" and limit is not None and tokens_BT.shape[1] > limit:
        raise ValueError(f"rows of {tokens_BT.shape[1]} tokens exceed model.max_positions={limit}; cut them")
    full = dict(batch)
    if "positions" not in full:
        full["positions"] = _positions(full.get("documents"), full.get("mask"), tokens_BT)
    if "documents" not in full:
        full["documents"] = full.get("mask", jnp.ones_like(tokens_BT)).astype(jnp.int32)
    return full


def _positions(documents_BT: jax.Array | None, mask_BT: jax.Array | None, tokens_BT: jax.Array) -> jax.Array:
    """Count from the first token of each document, or of the row; a hole in the mask is counted too."""
    index_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    if documents_BT is not None:
        starts_BT = jnp.diff(documents_BT, axis=1, prepend=-1) != 0
        return index_BT - jax.lax.cummax(jnp.where(starts_BT, index_BT, 0), axis=1)
    if mask_BT is not None:
        return jnp.maximum(index_BT - (mask_BT > 0).argmax(1, keepdims=True), 0)
    return index_BT
