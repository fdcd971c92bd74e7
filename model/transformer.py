"""The Transformer: embeddings, a stack of equal layers run as a scan, and the final norm."""

# B batch, T tokens, D model, N heads, K key-value heads, H head dim, F mlp, L layers

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmill.model.attention import attention
from flaxmill.model.config import ModelConfig
from flaxmill.model.dense import Dense
from flaxmill.model.dropout import dropout, split_key
from flaxmill.model.embeddings import Embeddings
from flaxmill.model.heads import LanguageModelHead, MaskedLanguageModelHead, NextSentenceHead
from flaxmill.model.initializers import kernel_initializer
from flaxmill.model.mlp import MLP
from flaxmill.model.norms import Norm
from flaxmill.model.positions import rotary
from flaxmill.sharding.rules import constrain

Batch = dict[str, jax.Array]


class SelfAttention(nnx.Module):
    """Multi-head attention with grouped key-value heads."""

    def __init__(self, key: jax.Array, config: ModelConfig) -> None:
        self.config = config
        keys = jax.random.split(key, 4)
        width, head_dim = (config.embed_dim,), config.dim_per_head
        make, bias = kernel_initializer(config), config.use_bias
        query_axes, key_axes = ("embed", "heads", "head_dim"), ("embed", "kv_heads", "head_dim")
        self.query = Dense(keys[0], width, (config.num_heads, head_dim), query_axes, make, bias)
        self.key = Dense(keys[1], width, (config.kv_heads, head_dim), key_axes, make, bias)
        self.value = Dense(keys[2], width, (config.kv_heads, head_dim), key_axes, make, bias)
        out_axes = ("heads", "head_dim", "embed")
        make_out = kernel_initializer(config, residual=True)
        self.out = Dense(keys[3], (config.num_heads, head_dim), width, out_axes, make_out, bias)

    def __call__(self, x_BTD: jax.Array, batch: Batch, key: jax.Array | None) -> jax.Array:
        config = self.config
        q_BTNH = constrain(self.query(x_BTD), "batch", "tokens", "heads", "head_dim")
        k_BTKH = constrain(self.key(x_BTD), "batch", "tokens", "kv_heads", "head_dim")
        v_BTKH = constrain(self.value(x_BTD), "batch", "tokens", "kv_heads", "head_dim")
        if config.positions == "rotary":
            q_BTNH = rotary(q_BTNH, batch["positions"], config.rope_theta)
            k_BTKH = rotary(k_BTKH, batch["positions"], config.rope_theta)
        assert config.causal is not None, "causal is resolved before the model is made"
        mixed_BTNH = attention(
            q_BTNH,
            k_BTKH,
            v_BTKH,
            documents_BT=batch["documents"],
            causal=batch["causal"].astype(bool) if "causal" in batch else config.causal,
            scale=config.dim_per_head**-0.5,
            dropout_rate=config.attention_dropout_rate,
            key=key,
            backend=config.attention,
        )
        return self.out(constrain(mixed_BTNH, "batch", "tokens", "heads", "head_dim"))


class Layer(nnx.Module):
    """Attention and MLP, each with its norm (before or after) and its residual connection."""

    def __init__(self, key: jax.Array, config: ModelConfig) -> None:
        keys = jax.random.split(key, 2)
        self.config = config
        self.attention_norm = Norm(config)
        self.attention = SelfAttention(keys[0], config)
        self.mlp_norm = Norm(config)
        self.mlp = MLP(keys[1], config)

    def __call__(self, x_BTD: jax.Array, batch: Batch, key: jax.Array | None) -> jax.Array:
        keys = split_key(key, 3)
        rate = self.config.dropout
        pre = self.config.norm_position == "pre"
        with jax.named_scope("attention_block"):
            y_BTD = self.attention(self.attention_norm(x_BTD) if pre else x_BTD, batch, keys[0])
            x_BTD = x_BTD + dropout(y_BTD, rate, keys[1])
            x_BTD = x_BTD if pre else self.attention_norm(x_BTD)
        with jax.named_scope("mlp_block"):
            y_BTD = self.mlp(self.mlp_norm(x_BTD) if pre else x_BTD)
            x_BTD = x_BTD + dropout(y_BTD, rate, keys[2])
            x_BTD = x_BTD if pre else self.mlp_norm(x_BTD)
        return constrain(x_BTD, "batch", "tokens", None)


class Transformer(nnx.Module):
    """Body and heads of one model; parameters of the layers are stacked along a leading L."""

    def __init__(self, key: jax.Array, config: ModelConfig) -> None:
        if config.head is None or config.causal is None or config.vocab_size is None:
            raise ValueError(
                f"model.head={config.head}, model.causal={config.causal} and model.vocab_size="
                f"{config.vocab_size} must be set before a model is made; training derives them"
            )
        keys = jax.random.split(key, 5)
        self.config = config
        self.embed = Embeddings(keys[0], config)
        self.layers = jax.vmap(lambda key: Layer(key, config))(jax.random.split(keys[1], config.num_layers))
        self.final_norm = Norm(config) if config.norm_position == "pre" else None
        is_lm = config.head == "lm"
        self.lm_head = LanguageModelHead(keys[2], config) if is_lm and not config.tie_embeddings else None
        self.mlm = None if is_lm else MaskedLanguageModelHead(keys[3], config)
        self.nsp = NextSentenceHead(keys[4], config) if config.head == "mlm_nsp" else None

    def __call__(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """Hidden states [B,T,D] of a completed batch (`complete_batch`); a key turns dropout on."""
        embed_key, layers_key = split_key(key, 2)
        with jax.named_scope("embeddings"):
            x_BTD = self.embed(batch, embed_key)
        x_BTD = self._run_layers(x_BTD, batch, layers_key)
        return x_BTD if self.final_norm is None else self.final_norm(x_BTD)

    def output_table(self) -> tuple[jax.Array, jax.Array | None]:
        """The last matrix [padded V, D] and its bias or None: logits = hidden @ matrix.T + bias."""
        own = self.lm_head if self.mlm is None else self.mlm
        kernel = None if own is None else own.kernel
        table = self.embed.tokens.embedding if kernel is None else kernel
        return table[...], None if self.mlm is None else self.mlm.bias[...]

    def _run_layers(self, x_BTD: jax.Array, batch: Batch, key: jax.Array | None) -> jax.Array:
        config = self.config
        keys = None if key is None else jax.random.split(key, config.num_layers)

        def run(x_BTD: jax.Array, layer_and_key: tuple[Layer, jax.Array | None]):
            layer, layer_key = layer_and_key
            return layer(x_BTD, batch, layer_key), None

        run = _remat(run, config)
        if config.scan_layers:
            return jax.lax.scan(run, x_BTD, (self.layers, keys))[0]
        for index in range(config.num_layers):
            one = jax.tree.map(lambda leaf, index=index: leaf[index], (self.layers, keys))
            x_BTD, _ = run(x_BTD, one)
        return x_BTD


def complete_batch(config: ModelConfig, batch: Batch) -> Batch:
    """Derive what a batch leaves out: mask, documents, positions, segments.

    Without `documents` a row is one document, and padding (mask 0) is document 0. Positions count from the
    first token of each document, so that left padding or packing moves nothing.
    """
    tokens_BT = batch["tokens"]
    limit = config.max_positions
    if config.positions == "learned" and limit is not None and tokens_BT.shape[1] > limit:
        raise ValueError(f"rows of {tokens_BT.shape[1]} tokens exceed model.max_positions={limit}; cut them")
    full = dict(batch)
    if "documents" not in full:
        full["documents"] = full.get("mask", jnp.ones_like(tokens_BT)).astype(jnp.int32)
    if "positions" not in full:
        documents_BT = full["documents"]
        index_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        starts_BT = jnp.diff(documents_BT, axis=1, prepend=-1) != 0
        first_BT = jax.lax.cummax(jnp.where(starts_BT, index_BT, 0), axis=1)
        full["positions"] = index_BT - first_BT
    if config.num_segments and "segments" not in full:
        full["segments"] = jnp.zeros_like(tokens_BT)
    return full


def _remat(run, config: ModelConfig):
    """Choose what the backward pass finds stored; prevent_cse is for unrolled layers alone."""
    if config.remat == "none":
        return run
    policies = jax.checkpoint_policies
    policy = {"full": None, "dots": policies.dots_with_no_batch_dims_saveable}[config.remat]
    return functools.partial(jax.checkpoint, prevent_cse=not config.scan_layers, policy=policy)(run)
