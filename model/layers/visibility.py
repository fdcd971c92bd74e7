"""Who sees whom in attention, as data: each backend builds its own mask from it."""

# B batch, T query tokens, S key tokens, N heads

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Tokens(NamedTuple):
    """Queries or keys: those of whole rows, or any of them."""

    documents: jax.Array
    """int32 [B,T]: the document of each; 0 is padding."""
    places: jax.Array
    """int32 [T]: which token of its row each is."""


class Rule(NamedTuple):
    """Which keys a query sees in its document."""

    causal: bool | jax.Array  # False: a token also sees the tokens after it
    """True: a token sees itself and the tokens before it. bool [B]: the same, in rows where it is True."""
    window: int | None = None
    """Causal: a token sees itself and window - 1 tokens before it. Else: window // 2 on either side."""
    prefix: jax.Array | None = None
    """int32 [B]: how many first tokens of a causal row see each other; None: none do."""


class Visibility(NamedTuple):
    """Which keys a query sees."""

    documents: jax.Array
    """int32 [B,T]: the document of each query. It sees only keys of its own document; 0 is padding."""
    causal: bool | jax.Array
    """As in `Rule`, and so are the next two."""
    window: int | None = None
    prefix: jax.Array | None = None
    bias: jax.Array | None = None
    """[N,T,S]: added to the scaled logits."""
    key_documents: jax.Array | None = None
    """int32 [B,S]: the documents of the keys of cross-attention; None: the keys are the queries' tokens."""
    places: jax.Array | None = None
    """int32 [T]: which token of its row each query is; None: they stand in their order."""
    zigzag: bool = False
    """Devices share each row, and its tokens are in the order of `zigzag_order`."""

    @property
    def rule(self) -> Rule:
        return Rule(self.causal, self.window, self.prefix)

    @property
    def queries(self) -> Tokens:
        places = self.places
        return _in_order(self.documents) if places is None else Tokens(self.documents, places)

    @property
    def keys(self) -> Tokens:
        return self.queries if self.key_documents is None else _in_order(self.key_documents)


def attention_mask(visible: Visibility) -> jax.Array:
    """bool [B,T,S]: True if the query may see the key."""
    return sees(visible.rule, visible.queries, visible.keys)


def sees(rule: Rule, queries: Tokens, keys: Tokens) -> jax.Array:
    """bool [B,T,S]: True if the query may see the key."""
    causal, window = rule.causal, rule.window
    mask_BTS = queries.documents[:, :, None] == keys.documents[:, None, :]
    distance_TS = queries.places[:, None] - keys.places[None, :]
    assert rule.prefix is None or causal is True, "only causal rows have a prefix"
    if causal is True:
        return mask_BTS & (_before(distance_TS, window) | _within_prefix(distance_TS, keys, rule))
    if causal is False:
        return mask_BTS & _on_either_side(distance_TS, window)
    before_TS, either_TS = _before(distance_TS, window), _on_either_side(distance_TS, window)
    return mask_BTS & jnp.where(causal[:, None, None], before_TS, either_TS)


def may_see(rule: Rule, queries: Tokens, keys: Tokens) -> jax.Array:
    """A scalar that is False only if no query sees any key, from the least and the greatest numbers alone."""
    least, greatest = keys.documents.min(1), keys.documents.max(1)
    may = ((queries.documents.max(1) >= least) & (queries.documents.min(1) <= greatest)).any()
    first_query, last_query = queries.places.min(), queries.places.max()
    first_key, last_key = keys.places.min(), keys.places.max()
    if rule.causal is True:
        reached = first_key <= last_query
        may &= reached if rule.prefix is None else reached | (first_key < rule.prefix.max())
    if rule.window is not None:  # a row that looks to both sides reaches half as far
        may &= (first_query - last_key < rule.window) & (first_key - last_query < rule.window)
    return may


def reach(causal: bool, window: int) -> tuple[int, int]:
    """How many tokens a query sees before itself and after."""
    return (window - 1, 0) if causal else (window // 2, window // 2)


def _in_order(documents_BT: jax.Array) -> Tokens:
    return Tokens(documents_BT, jnp.arange(documents_BT.shape[1], dtype=jnp.int32))


def _before(distance_TS: jax.Array, window: int | None) -> jax.Array:
    near = True if window is None else distance_TS < window
    return (distance_TS >= 0) & near


def _within_prefix(distance_TS: jax.Array, keys: Tokens, rule: Rule) -> bool | jax.Array:
    if rule.prefix is None:
        return False
    # A later query sees the whole prefix anyway, as far as its window reaches.
    near_TS = True if rule.window is None else jnp.abs(distance_TS) < rule.window
    return (keys.places < rule.prefix[:, None])[:, None, :] & near_TS


def _on_either_side(distance_TS: jax.Array, window: int | None) -> jax.Array:
    return jnp.ones_like(distance_TS, bool) if window is None else jnp.abs(distance_TS) <= window // 2
