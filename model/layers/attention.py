"""Attention through one function: who may see whom is data, and each backend builds its own mask from it."""

# B batch, T query tokens, S key tokens, N heads, K key-value heads, G = N / K, H head dim

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp

from flaxmill.model.layers.dropout import dropout
from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.model.layers.fused_attention import (
    cudnn_attention,
    cudnn_refusal,
    splash_attention,
    splash_refusal,
)
from flaxmill.sharding.rules import platform

LOGGER = logging.getLogger("flaxmill.attention")
MASKED = -1e30  # finite, so that a row without any key gives numbers and not NaN


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    documents_BT: jax.Array,
    causal: bool | jax.Array,
    scale: float,
    key_documents_BS: jax.Array | None = None,
    window: int | None = None,
    bias_NTS: jax.Array | None = None,
    dropout_rate: float = 0.0,
    key: jax.Array | None = None,
    backend: str = "auto",
) -> jax.Array:
    """Softmax attention within documents (Vaswani et al. 2017, eq. 1); softmax in float32.

    Args:
      documents_BT: int32 document number of each query; it sees only keys of its own, and 0 is padding.
      causal: True: a token sees itself and what precedes it; bool [B]: so in the rows where it is True.
      key_documents_BS: of the keys, where they are not the queries themselves (cross-attention).
      window: causal: a token sees itself and window - 1 before it; else window // 2 on either side.
      bias_NTS: added to the scaled logits.
      backend: auto, xla, cudnn or splash; one that cannot serve the call gives way to XLA, which is logged.

    Returns: [B,T,N,H] in the dtype of the queries.
    """
    visible: dict[str, Any] = dict(documents_BT=documents_BT, causal=causal, window=window)
    dropping = dropout_rate > 0 and key is not None
    reason = _common_refusal(causal, bias_NTS, dropping, crossing=key_documents_BS is not None)
    with jax.named_scope("attention"):
        match _choose_backend(backend, q_BTNH, k_BSKH, reason):
            case "cudnn":
                return cudnn_attention(q_BTNH, k_BSKH, v_BSKH, **visible, scale=scale)
            case "splash":
                return splash_attention(q_BTNH, k_BSKH, v_BSKH, **visible, scale=scale)
        return xla_attention(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            **visible,
            scale=scale,
            key_documents_BS=key_documents_BS,
            bias_NTS=bias_NTS,
            dropout_rate=dropout_rate,
            key=key,
        )


def xla_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    documents_BT: jax.Array,
    causal: bool | jax.Array,
    scale: float,
    key_documents_BS: jax.Array | None = None,
    window: int | None = None,
    bias_NTS: jax.Array | None = None,
    dropout_rate: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """The reference: materialises [B,N,T,S] logits, runs everywhere."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    # Heads go before tokens by hand: batched products of that layout are what XLA:CPU does well, and its
    # gradients then need no transposed copy (half the time of the einsum on [B,T,N,H]).
    q_BKGTH = q_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    k_BKSH, v_BKSH = k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2)
    logits_BKGTS = jnp.einsum("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH, preferred_element_type=sum_dtype(q_BTNH))
    logits_BKGTS = logits_BKGTS * scale
    if bias_NTS is not None:
        logits_BKGTS += bias_NTS.reshape(K, N // K, *bias_NTS.shape[1:])
    mask_BTS = attention_mask(documents_BT, causal, window, key_documents_BS)
    logits_BKGTS = jnp.where(mask_BTS[:, None, None], logits_BKGTS, MASKED)
    probs_BKGTS = jax.nn.softmax(logits_BKGTS, axis=-1).astype(q_BTNH.dtype)
    probs_BKGTS = dropout(probs_BKGTS, dropout_rate, key)
    mixed_BKGTH = jnp.einsum("BKGTS,BKSH->BKGTH", probs_BKGTS, v_BKSH)
    return mixed_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def attention_mask(
    documents_BT: jax.Array,
    causal: bool | jax.Array,
    window: int | None = None,
    key_documents_BS: jax.Array | None = None,
) -> jax.Array:
    """bool [B,T,S]: True where the query may see the key; arguments as of `attention`."""
    key_documents_BS = documents_BT if key_documents_BS is None else key_documents_BS
    mask_BTS = documents_BT[:, :, None] == key_documents_BS[:, None, :]
    distance_TS = jnp.arange(documents_BT.shape[1])[:, None] - jnp.arange(key_documents_BS.shape[1])[None, :]
    if causal is True:
        return mask_BTS & _before(distance_TS, window)
    if causal is False:
        return mask_BTS & _around(distance_TS, window)
    sees_BTS = jnp.where(causal[:, None, None], _before(distance_TS, window), _around(distance_TS, window))
    return mask_BTS & sees_BTS


def _before(distance_TS: jax.Array, window: int | None) -> jax.Array:
    near = True if window is None else distance_TS < window
    return (distance_TS >= 0) & near


def _around(distance_TS: jax.Array, window: int | None) -> jax.Array:
    return jnp.abs(distance_TS) <= (distance_TS.size if window is None else window // 2)


def _common_refusal(
    causal: bool | jax.Array, bias_NTS: jax.Array | None, dropping: bool, crossing: bool
) -> str | None:
    """Why no fused backend can serve a call; None if they may."""
    if dropping:
        return "it has no attention dropout (model.attention_dropout=0 turns that off)"
    if not isinstance(causal, bool):
        return "rows of one batch differ in causality (objective=hybrid)"
    if crossing:
        return "a padded query of cross-attention sees no key at all"
    if bias_NTS is not None:
        return "it takes no learned bias of the logits (model.positions=relative)"
    return None


def _choose_backend(requested: str, q_BTNH: jax.Array, k_BSKH: jax.Array, reason: str | None) -> str:
    wanted = {"tpu": "splash", "gpu": "cudnn"}.get(platform(), "xla") if requested == "auto" else requested
    if wanted == "xla":
        return "xla"
    refusal = cudnn_refusal if wanted == "cudnn" else splash_refusal
    reason = reason or refusal(q_BTNH, k_BSKH)
    if reason is None:
        return wanted
    _log_fallback(wanted, reason)
    return "xla"


@functools.cache  # once a reason, not once a layer
def _log_fallback(wanted: str, reason: str) -> None:
    LOGGER.warning("attention: %s cannot serve, XLA does: %s", wanted, reason)
