"""Attention through one function, and the choice of the kernel that computes it."""

# B batch, T query tokens, S key tokens, N heads, K key-value heads, G = N / K, H head dim

import functools
import logging

import jax

from flaxmill.model.layers.all_pairs import Mixing, Pairs, mix_values
from flaxmill.model.layers.blockwise_attention import blockwise_attention
from flaxmill.model.layers.dropout import keep_mask, share_kept
from flaxmill.model.layers.fused_attention import (
    LANES,
    cudnn_attention,
    cudnn_refusal,
    splash_attention,
    splash_refusal,
)
from flaxmill.model.layers.visibility import Visibility, attention_mask
from flaxmill.sharding.local_tokens import num_parts
from flaxmill.sharding.rules import platform

LOGGER = logging.getLogger("flaxmill.attention")
LEAST_TOKENS_FOR_CAUSAL_BLOCKS, LEAST_TOKENS_FOR_BLOCKS = 512, 2048
"""Of a row, on CPU: from here on blocks are faster (docs/benchmarks.md); they skip half of causal rows."""
LEAST_TOKENS_FOR_RING = 8192
"""Of a row on one TPU: with fewer, a turn of the ring is too short to hide what it sends."""
BLOCK_ON_CPU, BLOCK_ON_ACCELERATORS = 256, 512


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    visible: Visibility,
    *,
    scale: float,
    dropout_rate: float = 0.0,
    keys_B: jax.Array | None = None,
    backend: str = "auto",
) -> jax.Array:
    """Softmax attention within documents (Vaswani et al. 2017, eq. 1); softmax in float32.

    Args:
      keys_B: a key for each row; turns dropout on.
      backend: auto, xla, blocks, cudnn or splash; if it cannot serve the call XLA does, which is logged. auto
        takes the kernel of the platform: on CPU blocks, for rows long enough.

    Returns: [B,T,N,H] in the dtype of the queries.
    """
    dropping = dropout_rate > 0 and keys_B is not None
    with jax.named_scope("attention"):
        match _choose_backend(backend, q_BTNH, visible, dropping=dropping):
            case "blocks":
                return blockwise_attention(q_BTNH, k_BSKH, v_BSKH, visible, scale=scale, block=block_size())
            case "cudnn":
                return cudnn_attention(q_BTNH, k_BSKH, v_BSKH, visible, scale=scale)
            case "splash":
                return splash_attention(q_BTNH, k_BSKH, v_BSKH, visible, scale=scale)
        return xla_attention(
            q_BTNH, k_BSKH, v_BSKH, visible, scale=scale, dropout_rate=dropout_rate, keys_B=keys_B
        )


def xla_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    visible: Visibility,
    *,
    scale: float,
    dropout_rate: float = 0.0,
    keys_B: jax.Array | None = None,
) -> jax.Array:
    """The reference: materialises [B,N,T,S] logits, runs everywhere."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    # Heads are moved before tokens by hand: XLA:CPU does batched products well in that layout, and its
    # gradients then need no transposed copy (half the time of the einsum on [B,T,N,H]).
    q_BKGTH = q_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    k_BKSH, v_BKSH = k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2)
    rate = 0.0 if keys_B is None else dropout_rate
    pairs = Pairs(
        attention_mask(visible),
        None if visible.bias is None else visible.bias.reshape(K, N // K, T, S),
        keep_mask(keys_B, rate, (K, N // K, T, S)) if keys_B is not None and rate > 0 else None,
    )
    mixing = Mixing(scale, share_kept(rate), some_see_nothing=visible.key_documents is not None)
    mixed_BKGTH = mix_values(mixing, q_BKGTH, k_BKSH, v_BKSH, pairs)
    return mixed_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def block_size() -> int:
    """Tokens of a block, for `blockwise_attention`: what its matrix units and caches take well."""
    return BLOCK_ON_CPU if platform() == "cpu" else BLOCK_ON_ACCELERATORS


def _choose_backend(requested: str, q_BTNH: jax.Array, visible: Visibility, *, dropping: bool) -> str:
    if num_parts() > 1:
        assert not _refusal_of_pairs(visible, dropping=dropping), "check_mesh refuses it"
        has_one_rule = isinstance(visible.causal, bool) and visible.prefix is None
        may_gather = requested == "auto" and has_one_rule
        return "splash" if may_gather and gathers_keys(platform(), q_BTNH.shape[1]) else "blocks"
    wanted = _preferred(q_BTNH.shape[1], visible) if requested == "auto" else requested
    if wanted == "xla":
        return "xla"
    reason = _refusal_of_pairs(visible, dropping=dropping)
    if wanted in ("cudnn", "splash"):
        reason = reason or _refusal_of_rows(visible)
        refusal = cudnn_refusal if wanted == "cudnn" else splash_refusal
        reason = reason or refusal(q_BTNH)
    if reason is None:
        return wanted
    if requested != "auto" or wanted != "blocks":
        _log_fallback(wanted, reason)
    return "xla"


def gathers_keys(platform: str, num_tokens: int) -> bool:
    """Whether devices with so many tokens of each row gather its keys for their kernel; else keys go around a
    ring of devices, in blocks: a row's keys are then never on one device."""
    return platform == "tpu" and num_tokens < LEAST_TOKENS_FOR_RING and num_tokens % LANES == 0


def prefers_blocks(num_tokens: int, *, causal: bool) -> bool:
    """Whether a CPU takes blocks by itself for rows of so many tokens."""
    return num_tokens >= (LEAST_TOKENS_FOR_CAUSAL_BLOCKS if causal else LEAST_TOKENS_FOR_BLOCKS)


def _preferred(num_tokens: int, visible: Visibility) -> str:
    fused = {"tpu": "splash", "gpu": "cudnn"}.get(platform())
    return fused or ("blocks" if prefers_blocks(num_tokens, causal=visible.causal is True) else "xla")


def _refusal_of_pairs(visible: Visibility, *, dropping: bool) -> str | None:
    """Why a call needs the probabilities of all pairs at once; None if it does not."""
    if dropping:
        return "it has no attention dropout (model.attention_dropout=0 turns that off)"
    if visible.key_documents is not None:
        return "a padded query of cross-attention sees no key at all"
    if visible.bias is not None:
        return "it takes no learned bias of the logits (model.positions=relative)"
    return None


def _refusal_of_rows(visible: Visibility) -> str | None:
    """Why a kernel with one rule for all rows cannot serve a call; None if it may."""
    if not isinstance(visible.causal, bool):
        return "rows of one batch differ in causality (objective=hybrid)"
    if visible.prefix is not None:
        return "the first tokens of its rows see each other (objective=prefix_lm)"
    if visible.places is not None:
        return "the tokens of its rows are not in order"
    return None


@functools.cache  # once for each reason, not for each layer
def _log_fallback(wanted: str, reason: str) -> None:
    LOGGER.warning("attention: %s cannot serve, XLA does: %s", wanted, reason)
