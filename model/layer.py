"""One layer: attention and MLP, each with its norm and its residual connection."""

# B batch, T query tokens, S key tokens, D model, N heads, K key-value heads, H head dim, F mlp

from collections.abc import Callable
from typing import NamedTuple

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import LayerKind
from flaxmill.model.layers.attention import attention
from flaxmill.model.layers.dense import Dense
from flaxmill.model.layers.dropout import dropout, split_keys
from flaxmill.model.layers.initializers import kernel_initializer
from flaxmill.model.layers.lora import lora_of
from flaxmill.model.layers.mlp import MLP
from flaxmill.model.layers.moe import MixtureOfExperts
from flaxmill.model.layers.norms import Norm
from flaxmill.model.layers.positions import Turns, rotary
from flaxmill.model.layers.router import RoutingSums
from flaxmill.model.layers.visibility import Visibility
from flaxmill.sharding.rules import constrain, from_residual, to_residual

Attend = Callable[[jax.Array], jax.Array]
"""Maps normed hidden states [B,T,D] to what is added to them."""


class AttentionInputs(NamedTuple):
    """What attention depends on besides hidden states; all layers of a stack share it."""

    visible: Visibility
    """Who sees whom in a layer without a window."""
    turns: dict[LayerKind, Turns]
    """Turns of rotary positions; empty for other positions."""
    encoded: jax.Array | None = None
    """[B,S,D]: the encoder's output, for cross-attention."""
    encoded_documents: jax.Array | None = None
    """[B,S]: the documents of the encoder's tokens."""


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
        visible: Visibility,
        turns: Turns | None,
        keys_B: jax.Array | None,
    ) -> jax.Array:
        """[B,T,D]: what `x_BTD` reads from `keys_BSD`."""
        return self.mix(self.queries(x_BTD, turns), *self.keys_and_values(keys_BSD, turns), visible, keys_B)

    def queries(self, x_BTD: jax.Array, turns: Turns | None) -> jax.Array:
        """[B,T,N,H], turned by their positions."""
        q_BTNH = checkpoint_name(
            constrain(self.query(x_BTD), "batch", "tokens", "heads", "head_dim"), "query"
        )
        return _placed(q_BTNH, self.query_norm, turns)

    def keys_and_values(self, keys_BSD: jax.Array, turns: Turns | None) -> tuple[jax.Array, jax.Array]:
        """Both [B,S,K,H]; the keys are turned by their positions."""
        k_BSKH = checkpoint_name(
            constrain(self.key(keys_BSD), "batch", "tokens", "kv_heads", "head_dim"), "key"
        )
        v_BSKH = checkpoint_name(
            constrain(self.value(keys_BSD), "batch", "tokens", "kv_heads", "head_dim"), "value"
        )
        return _placed(k_BSKH, self.key_norm, turns), v_BSKH

    def mix(
        self,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        visible: Visibility,
        keys_B: jax.Array | None = None,
    ) -> jax.Array:
        """[B,T,D]: what the queries read from the values."""
        mixed_BTNH = attention(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            visible,
            scale=self.config.logits_factor,
            dropout_rate=self.config.attention_dropout_rate,
            keys_B=keys_B,
            backend=self.config.attention,
        )
        return self.project(mixed_BTNH)

    def project(self, mixed_BTNH: jax.Array) -> jax.Array:
        """[B,T,D]: projects what the heads have read."""
        mixed_BTNH = constrain(mixed_BTNH, "batch", "tokens", "heads", "head_dim")
        mixed_BTNH = checkpoint_name(mixed_BTNH, "attention_mixed")
        return checkpoint_name(self.out(mixed_BTNH), "attention_output")


class Layer(nnx.Module):
    """Self-attention, attention to an encoder's output if there is an encoder, and MLP or experts."""

    def __init__(
        self,
        key: jax.Array,
        config: ModelConfig,
        *,
        attention_norm: bool = True,
        crosses: bool = False,
        has_experts: bool = False,
    ) -> None:
        keys = jax.random.split(key, 3)
        self.config = config
        self.attention_norm = Norm(config) if attention_norm else None
        self.attention = Attention(keys[0], config)
        self.cross_attention_norm = Norm(config) if crosses else None
        self.cross_attention = Attention(keys[1], config) if crosses else None
        self.mlp_norm = Norm(config)
        self.mlp = None if has_experts else MLP(keys[2], config)
        self.moe = MixtureOfExperts(keys[2], config) if has_experts else None

    def __call__(
        self, x_BTD: jax.Array, inputs: AttentionInputs, kind: LayerKind, keys_B: jax.Array | None
    ) -> tuple[jax.Array, RoutingSums | None]:
        """Hidden states [B,T,D] after this layer, and what its router did; keys of the rows turn dropout
        on."""
        x_BTD = checkpoint_name(x_BTD, "layer_input")
        keys = split_keys(keys_B, 5)
        visible, turns = self.visible(inputs, kind), inputs.turns.get(kind)

        def attend(x_BTD: jax.Array) -> jax.Array:
            return self.attention(x_BTD, x_BTD, visible, turns, keys[0])

        def attend_encoded(x_BTD: jax.Array) -> jax.Array:
            assert self.cross_attention is not None
            assert inputs.encoded is not None
            encoded = Visibility(visible.documents, causal=False, key_documents=inputs.encoded_documents)
            return self.cross_attention(x_BTD, inputs.encoded, encoded, None, keys[3])

        is_real_BT = visible.documents > 0
        return self.connect(x_BTD, attend, attend_encoded, is_real_BT, (keys[1], keys[4], keys[2]))

    def visible(self, inputs: AttentionInputs, kind: LayerKind) -> Visibility:
        """Who sees whom in this layer's self-attention."""
        return inputs.visible._replace(window=self.config.window if kind == "local" else None)

    def connect(
        self,
        x_BTD: jax.Array,
        attend: Attend,
        attend_encoded: Attend,
        is_real_BT: jax.Array,
        keys: tuple[jax.Array | None, ...] = (None, None, None),
    ) -> tuple[jax.Array, RoutingSums | None]:
        """Adds what attention, attention to an encoder if the layer has it, and the MLP give.

        Args:
          attend, attend_encoded: read the tokens themselves, and the encoder's output.
          is_real_BT: False at padding, which goes to no expert.
          keys: turn on dropout of what these two and the MLP add.
        """
        routed: list[RoutingSums] = []

        def feed(x_BTD: jax.Array) -> jax.Array:
            if self.moe is None:
                assert self.mlp is not None
                return self.mlp(x_BTD)
            y_BTD, sums = self.moe(x_BTD, is_real_BT)
            routed.append(sums)
            return y_BTD

        x_BTD = self._connect(x_BTD, attend, attend_encoded, feed, keys)
        return constrain(x_BTD, "batch", "residual_tokens", None), routed[0] if routed else None

    def _connect(
        self,
        x_BTD: jax.Array,
        attend: Attend,
        attend_encoded: Attend,
        feed: Attend,
        keys: tuple[jax.Array | None, ...],
    ) -> jax.Array:
        if self.config.parallel_residual:
            attended_BTD = self._drop(_run(attend, _normed(self.attention_norm, x_BTD)), keys[0])
            return x_BTD + (attended_BTD + self._drop(_run(feed, self.mlp_norm(x_BTD)), keys[2]))
        add = self._add_normed if self.config.norm_position == "pre" else self._norm_sum
        with jax.named_scope("attention_block"):
            x_BTD = add(x_BTD, attend, self.attention_norm, keys[0])
        if self.cross_attention is not None:
            with jax.named_scope("cross_attention_block"):
                x_BTD = add(x_BTD, attend_encoded, self.cross_attention_norm, keys[1])
        with jax.named_scope("mlp_block"):
            return add(x_BTD, feed, self.mlp_norm, keys[2])

    def _add_normed(
        self, x_BTD: jax.Array, run: Attend, norm: Norm | None, keys_B: jax.Array | None
    ) -> jax.Array:
        return x_BTD + self._drop(_run(run, _normed(norm, x_BTD)), keys_B)

    def _norm_sum(
        self, x_BTD: jax.Array, run: Attend, norm: Norm | None, keys_B: jax.Array | None
    ) -> jax.Array:
        return _normed(norm, x_BTD + self._drop(_run(run, x_BTD), keys_B))

    def _drop(self, x_BTD: jax.Array, keys_B: jax.Array | None) -> jax.Array:
        return dropout(x_BTD, self.config.dropout, keys_B)


def _run(block: Attend, x_BTD: jax.Array) -> jax.Array:
    return to_residual(block(from_residual(x_BTD)))


def _placed(x_BTNH: jax.Array, norm: Norm | None, turns: Turns | None) -> jax.Array:
    x_BTNH = _normed(norm, x_BTNH)
    return x_BTNH if turns is None else rotary(x_BTNH, turns)


def _normed(norm: Norm | None, x_BTD: jax.Array) -> jax.Array:
    return x_BTD if norm is None else norm(x_BTD)
