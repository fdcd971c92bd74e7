"""One layer: attention and MLP, each with its norm and its residual connection."""

# B batch, T query tokens, S key tokens, D model, N heads, K key-value heads, H head dim, F mlp

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import LayerKind
from flaxmill.model.layers.attention import attention
from flaxmill.model.layers.dense import Dense
from flaxmill.model.layers.dropout import dropout, split_key
from flaxmill.model.layers.initializers import kernel_initializer
from flaxmill.model.layers.lora import lora_of
from flaxmill.model.layers.mlp import MLP
from flaxmill.model.layers.norms import Norm
from flaxmill.model.layers.positions import Turns, rotary
from flaxmill.sharding.rules import constrain

Attend = Callable[[jax.Array], jax.Array]
"""From normed hidden states [B,T,D] to what is added to them."""


class Surroundings(NamedTuple):
    """What all layers of a stack attend by."""

    documents: jax.Array
    """[B,T]; 0 is padding."""
    causal: bool | jax.Array
    turns: dict[LayerKind, Turns]
    """Of rotary positions, else empty."""
    bias: jax.Array | None
    """[N,T,T] of relative positions."""
    encoded: jax.Array | None = None
    """[B,S,D]: an encoder's output, for cross-attention."""
    encoded_documents: jax.Array | None = None
    """[B,S]."""


class Attention(nnx.Module):
    """Multi-head attention with grouped key-value heads, to the tokens themselves or to others."""

    def __init__(self, key: jax.Array, config: ModelConfig) -> None:
        self.config = config
        keys = jax.random.split(key, 4)
        width, head_dim = (config.embed_dim,), config.dim_per_head
        make, bias = kernel_initializer(config), config.has_bias("qkv")
        query_axes, key_axes = ("embed", "heads", "head_dim"), ("embed", "kv_heads", "head_dim")
        project = lambda key, to, axes, name: Dense(key, width, to, axes, make, bias, lora_of(config, name))  # noqa: E731
        self.query = project(keys[0], (config.num_heads, head_dim), query_axes, "query")
        self.key = project(keys[1], (config.kv_heads, head_dim), key_axes, "key")
        self.value = project(keys[2], (config.kv_heads, head_dim), key_axes, "value")
        self.query_norm = Norm(config, head_dim, "rmsnorm") if config.qk_norm else None
        self.key_norm = Norm(config, head_dim, "rmsnorm") if config.qk_norm else None
        out_axes, out_bias = ("heads", "head_dim", "embed"), config.has_bias("attention_out")
        make_out = kernel_initializer(config, residual=True)
        heads, lora = (config.num_heads, head_dim), lora_of(config, "out")
        self.out = Dense(keys[3], heads, width, out_axes, make_out, out_bias, lora)

    def __call__(
        self,
        x_BTD: jax.Array,
        keys_BSD: jax.Array,
        *,
        turns: Turns | None,
        key: jax.Array | None,
        **visible: Any,
    ) -> jax.Array:
        """Attend from `x_BTD` to `keys_BSD`; `visible` says who sees whom, as `attention` takes it."""
        q_BTNH = self.queries(x_BTD, turns)
        return self.mix(q_BTNH, *self.keys_and_values(keys_BSD, turns), key=key, **visible)

    def queries(self, x_BTD: jax.Array, turns: Turns | None) -> jax.Array:
        """[B,T,N,H], turned as their positions ask."""
        q_BTNH = constrain(self.query(x_BTD), "batch", "tokens", "heads", "head_dim")
        return _placed(q_BTNH, self.query_norm, turns)

    def keys_and_values(self, keys_BSD: jax.Array, turns: Turns | None) -> tuple[jax.Array, jax.Array]:
        """Both [B,S,K,H], the keys turned as their positions ask."""
        k_BSKH = constrain(self.key(keys_BSD), "batch", "tokens", "kv_heads", "head_dim")
        v_BSKH = constrain(self.value(keys_BSD), "batch", "tokens", "kv_heads", "head_dim")
        return _placed(k_BSKH, self.key_norm, turns), v_BSKH

    def mix(
        self,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        *,
        key: jax.Array | None = None,
        **visible: Any,
    ) -> jax.Array:
        """[B,T,D]: what the queries read of the values."""
        mixed_BTNH = attention(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            scale=self.config.logits_factor,
            dropout_rate=self.config.attention_dropout_rate,
            key=key,
            backend=self.config.attention,
            **visible,
        )
        return self.project(mixed_BTNH)

    def project(self, mixed_BTNH: jax.Array) -> jax.Array:
        """[B,T,D] of what the heads have read."""
        return self.out(constrain(mixed_BTNH, "batch", "tokens", "heads", "head_dim"))


class Layer(nnx.Module):
    """Self-attention, attention to an encoder's output where there is one, and MLP."""

    def __init__(
        self, key: jax.Array, config: ModelConfig, *, attention_norm: bool = True, crosses: bool = False
    ) -> None:
        keys = jax.random.split(key, 3)
        self.config = config
        self.attention_norm = Norm(config) if attention_norm else None
        self.attention = Attention(keys[0], config)
        self.cross_attention_norm = Norm(config) if crosses else None
        self.cross_attention = Attention(keys[1], config) if crosses else None
        self.mlp_norm = Norm(config)
        self.mlp = MLP(keys[2], config)

    def __call__(
        self, x_BTD: jax.Array, around: Surroundings, kind: LayerKind, key: jax.Array | None
    ) -> jax.Array:
        keys = split_key(key, 5)
        turns, visible = around.turns.get(kind), self.visible(around, kind)
        attend = lambda x_BTD: self.attention(x_BTD, x_BTD, turns=turns, key=keys[0], **visible)  # noqa: E731
        attend_encoded = lambda x_BTD: self._attend_encoded(x_BTD, around, keys[3])  # noqa: E731
        return self.connect(x_BTD, attend, attend_encoded, (keys[1], keys[4], keys[2]))

    def visible(self, around: Surroundings, kind: LayerKind) -> dict[str, Any]:
        """Who sees whom in self-attention, as `attention` takes it."""
        return dict(
            documents_BT=around.documents,
            causal=around.causal,
            window=self.config.window if kind == "local" else None,
            bias_NTS=around.bias,
        )

    def connect(
        self,
        x_BTD: jax.Array,
        attend: Attend,
        attend_encoded: Attend,
        keys: tuple[jax.Array | None, ...] = (None, None, None),
    ) -> jax.Array:
        """Norms, residual connections and MLP around two functions that attend; `attend_encoded` is used
        where the layer attends to an encoder. The keys drop out what attend, attend_encoded and MLP give."""
        if self.config.parallel_residual:
            y_BTD = self._drop(attend(_normed(self.attention_norm, x_BTD)), keys[0])
            y_BTD = y_BTD + self._drop(self.mlp(self.mlp_norm(x_BTD)), keys[2])
            return constrain(x_BTD + y_BTD, "batch", "tokens", None)
        with jax.named_scope("attention_block"):
            x_BTD = self._block(x_BTD, attend, self.attention_norm, keys[0])
        if self.cross_attention is not None:
            with jax.named_scope("cross_attention_block"):
                x_BTD = self._block(x_BTD, attend_encoded, self.cross_attention_norm, keys[1])
        with jax.named_scope("mlp_block"):
            x_BTD = self._block(x_BTD, self.mlp, self.mlp_norm, keys[2])
        return constrain(x_BTD, "batch", "tokens", None)

    def _block(self, x_BTD: jax.Array, run: Attend, norm: Norm | None, key: jax.Array | None) -> jax.Array:
        """x + run(norm(x)), or norm(x + run(x)) where the norm comes after."""
        if self.config.norm_position == "pre":
            return x_BTD + self._drop(run(_normed(norm, x_BTD)), key)
        return _normed(norm, x_BTD + self._drop(run(x_BTD), key))

    def _attend_encoded(self, x_BTD: jax.Array, around: Surroundings, key: jax.Array | None) -> jax.Array:
        assert self.cross_attention is not None
        assert around.encoded is not None
        return self.cross_attention(
            x_BTD,
            around.encoded,
            turns=None,
            key=key,
            documents_BT=around.documents,
            key_documents_BS=around.encoded_documents,
            causal=False,
        )

    def _drop(self, x_BTD: jax.Array, key: jax.Array | None) -> jax.Array:
        return dropout(x_BTD, self.config.dropout, key)


def _placed(x_BTNH: jax.Array, norm: Norm | None, turns: Turns | None) -> jax.Array:
    x_BTNH = _normed(norm, x_BTNH)
    return x_BTNH if turns is None else rotary(x_BTNH, turns)


def _normed(norm: Norm | None, x_BTD: jax.Array) -> jax.Array:
    return x_BTD if norm is None else norm(x_BTD)
