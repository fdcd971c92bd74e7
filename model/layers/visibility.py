"""Who sees whom in attention, as data: each backend builds its own mask from it."""

# B batch, T query tokens, S key tokens, N heads

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Visibility(NamedTuple):
    """Which keys a query sees."""

    documents: jax.Array
    """int32 [B,T]: the document of each query. It sees only keys of its own document; 0 is padding."""
    causal: bool | jax.Array  # False: a token also sees the tokens after it
    """True: a token sees itself and the tokens before it. bool [B]: the same, in rows where it is True."""
    window: int | None = None
    """Causal: a token sees itself and window - 1 tokens before it. Else: window // 2 on either side."""
    prefix: jax.Array | None = None
    """int32 [B]: how many first tokens of a causal row see each other; None: none do."""
    bias: jax.Array | None = None
    """[N,T,S]: added to the scaled logits."""
    key_documents: jax.Array | None = None
    """int32 [B,S]: the documents of the keys of cross-attention; None: the keys are the queries' tokens."""


def attention_mask(visible: Visibility) -> jax.Array:
    """bool [B,T,S]: True if the query may see the key."""
    documents_BT, causal, window = visible.documents, visible.causal, visible.window
    key_documents_BS = documents_BT if visible.key_documents is None else visible.key_documents
    mask_BTS = documents_BT[:, :, None] == key_documents_BS[:, None, :]
    distance_TS = jnp.arange(documents_BT.shape[1])[:, None] - jnp.arange(key_documents_BS.shape[1])[None, :]
    assert visible.prefix is None or causal is True, "only causal rows have a prefix"
    if causal is True:
        return mask_BTS & (_before(distance_TS, window) | _within_prefix(distance_TS, visible))
    if causal is False:
        return mask_BTS & _on_either_side(distance_TS, window)
    before_TS, either_TS = _before(distance_TS, window), _on_either_side(distance_TS, window)
    return mask_BTS & jnp.where(causal[:, None, None], before_TS, either_TS)


def reach(causal: bool, window: int) -> tuple[int, int]:
    """How many tokens a query sees before itself and after."""
    return (window - 1, 0) if causal else (window // 2, window // 2)


def _before(distance_TS: jax.Array, window: int | None) -> jax.Array:
    near = True if window is None else distance_TS < window
    return (distance_TS >= 0) & near


def _within_prefix(distance_TS: jax.Array, visible: Visibility) -> bool | jax.Array:
    if visible.prefix is None:
        return False
    # A later query sees the whole prefix anyway, as far as its window reaches.
    near_TS = True if visible.window is None else jnp.abs(distance_TS) < visible.window
    return (jnp.arange(distance_TS.shape[1]) < visible.prefix[:, None])[:, None, :] & near_TS


def _on_either_side(distance_TS: jax.Array, window: int | None) -> jax.Array:
    return jnp.ones_like(distance_TS, bool) if window is None else jnp.abs(distance_TS) <= window // 2
