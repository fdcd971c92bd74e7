"""Attention through one function: who may see whom is data, and each backend builds its own mask from it."""

# B batch, T query tokens, S key tokens, N heads, K key-value heads, G = N / K, H head dim

import functools
import logging

import jax
import jax.numpy as jnp

from flaxmill.model.dropout import dropout
from flaxmill.model.fused_attention import cudnn_attention, cudnn_refusal, splash_attention, splash_refusal
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
    dropout_rate: float = 0.0,
    key: jax.Array | None = None,
    backend: str = "auto",
) -> jax.Array:
    """Softmax attention within documents (Vaswani et al. 2017, eq. 1); softmax in float32.

    Args:
      documents_BT: int32 document number of each token; a token sees only its own document, and 0 is padding.
      causal: True: a token sees itself and what precedes it; bool [B]: so in the rows where it is True.
      backend: auto, xla, cudnn or splash; one that cannot serve the call gives way to XLA, which is logged.

    Returns: [B,T,N,H] in the dtype of the queries.
    """
    dropping = dropout_rate > 0 and key is not None
    with jax.named_scope("attention"):
        match _choose_backend(backend, q_BTNH, k_BSKH, isinstance(causal, bool), dropping):
            case "cudnn":
                return cudnn_attention(
                    q_BTNH, k_BSKH, v_BSKH, documents_BT=documents_BT, causal=bool(causal), scale=scale
                )
            case "splash":
                return splash_attention(
                    q_BTNH, k_BSKH, v_BSKH, documents_BT=documents_BT, causal=bool(causal), scale=scale
                )
        return xla_attention(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            documents_BT=documents_BT,
            causal=causal,
            scale=scale,
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
    logits_BKGTS = jnp.einsum("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH, preferred_element_type=jnp.float32)
    mask_BTS = attention_mask(documents_BT, causal)
    logits_BKGTS = jnp.where(mask_BTS[:, None, None], logits_BKGTS * scale, MASKED)
    probs_BKGTS = jax.nn.softmax(logits_BKGTS, axis=-1).astype(q_BTNH.dtype)
    probs_BKGTS = dropout(probs_BKGTS, dropout_rate, key)
    mixed_BKGTH = jnp.einsum("BKGTS,BKSH->BKGTH", probs_BKGTS, v_BKSH)
    return mixed_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def attention_mask(documents_BT: jax.Array, causal: bool | jax.Array) -> jax.Array:
    """bool [B,T,T]: True where the query (second dimension) may see the key (third)."""
    mask_BTS = documents_BT[:, :, None] == documents_BT[:, None, :]
    if causal is False:
        return mask_BTS
    T = documents_BT.shape[1]
    before_TS = jnp.arange(T)[:, None] >= jnp.arange(T)[None, :]
    if causal is not True:
        before_TS = before_TS | ~causal[:, None, None]
    return mask_BTS & before_TS


def _choose_backend(
    requested: str, q_BTNH: jax.Array, k_BSKH: jax.Array, one_mask: bool, dropping: bool
) -> str:
    wanted = {"tpu": "splash", "gpu": "cudnn"}.get(platform(), "xla") if requested == "auto" else requested
    if wanted == "xla":
        return "xla"
    refusal = cudnn_refusal if wanted == "cudnn" else splash_refusal
    reason = refusal(q_BTNH, k_BSKH)
    if dropping:
        reason = "it has no attention dropout (model.attention_dropout=0 turns that off)"
    if not one_mask:
        reason = "rows of one batch differ in causality (objective=hybrid)"
    if reason is None:
        return wanted
    _log_fallback(wanted, reason)
    return "xla"


@functools.cache  # once a reason, not once a layer
def _log_fallback(wanted: str, reason: str) -> None:
    LOGGER.warning("attention: %s cannot serve, XLA does: %s", wanted, reason)
