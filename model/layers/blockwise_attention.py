"""Attention in blocks of queries and keys: memory grows with the tokens and not with their pairs.

Blocks without a visible pair are skipped. Devices that hold other tokens of the same rows pass their keys and
values on in a ring (Liu et al. 2023, Ring Attention), until each device has seen all of them.
"""

# B batch, T tokens, N heads, K key-value heads, G = N / K, H head dim
# I blocks of t queries, J blocks of s keys

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxmill.model.layers.all_pairs import MASKED
from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.model.layers.visibility import Rule, Tokens, Visibility, may_see, sees
from flaxmill.sharding.local_tokens import num_parts, pass_on

NO_DOCUMENT = -1
"""The document of tokens that fill up the last block."""


class _Static(NamedTuple):
    """What is known before the program runs."""

    causal: bool | None
    """None: rows differ."""
    window: int | None
    scale: float
    block: int


class _Rows(NamedTuple):
    """What else says who sees whom in a row, as in `Visibility`."""

    causal: jax.Array | None
    prefix: jax.Array | None


class _Queries(NamedTuple):
    """Blocks of queries; the backward pass also knows what follows from their output."""

    q: jax.Array
    """[I,B,K,G,t,H]"""
    tokens: Tokens
    dout: jax.Array | None = None
    """[I,B,K,G,t,H]: the gradient of the output."""
    delta: jax.Array | None = None
    """[I,B,K,G,t]: the products of the output and its gradient."""
    lse: jax.Array | None = None
    """[I,B,K,G,t]: the logarithms of the sums of exponentiated logits."""


class _Keys(NamedTuple):
    """Blocks of keys and their values."""

    k: jax.Array
    """[J,B,K,s,H]"""
    v: jax.Array
    tokens: Tokens


class _Read(NamedTuple):
    """What queries have read so far, by blocks of them."""

    greatest: jax.Array
    """[I,B,K,G,t]: their greatest logit."""
    total: jax.Array
    """[I,B,K,G,t]: the sum of exponentials."""
    mixed: jax.Array
    """[I,B,K,G,t,H]: the sum of values with their exponentials as weights."""


def blockwise_attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    visible: Visibility,
    *,
    scale: float,
    block: int,
) -> jax.Array:
    """Softmax attention with running maxima and sums (Dao et al. 2022, algorithm 1); softmax in float32.

    Args:
      block: tokens of a block, of queries and of keys.

    Returns: [B,T,N,H] in the dtype of the queries.
    """
    assert visible.bias is None, "a bias of all pairs is what blocks avoid"
    assert visible.key_documents is None, "queries and keys are the same tokens"
    causal = visible.causal if isinstance(visible.causal, bool) else None
    rows = _Rows(None if causal is not None else jnp.asarray(visible.causal), visible.prefix)
    static = _Static(causal, visible.window, scale, min(block, q_BTNH.shape[1]))
    return _attend(static, q_BTNH, k_BTKH, v_BTKH, visible.queries, rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static: _Static, q_BTNH: Any, k_BTKH: Any, v_BTKH: Any, tokens: Tokens, rows: _Rows) -> jax.Array:
    return _forward(static, q_BTNH, k_BTKH, v_BTKH, tokens, rows)[0]


def _forward(static: _Static, q_BTNH: Any, k_BTKH: Any, v_BTKH: Any, tokens: Tokens, rows: _Rows):
    cut, heads = _cutter(static.block), k_BTKH.shape[2]
    tokens, rows = _bound((tokens, rows), q_BTNH)
    queries = _Queries(cut(_by_key_head(q_BTNH, heads)), _cut_tokens(tokens, static.block))
    keys = _Keys(cut(k_BTKH), cut(v_BTKH), queries.tokens)
    zeros = jnp.zeros(queries.q.shape, sum_dtype(q_BTNH))
    read = _Read(zeros[..., 0] + MASKED, zeros[..., 0], zeros)

    def visit(read: _Read, keys: _Keys, sums: None) -> tuple[_Read, None]:
        return _read_keys(static, rows, queries, keys, read), sums

    read, _ = _around_ring(visit, read, keys, None)
    out_BTNH = _join(read.mixed / read.total[..., None], q_BTNH)
    return out_BTNH, (q_BTNH, k_BTKH, v_BTKH, tokens, rows, out_BTNH, read.greatest + jnp.log(read.total))


def _backward(static: _Static, saved: Any, dout_BTNH: jax.Array):
    q_BTNH, k_BTKH, v_BTKH, tokens, rows, out_BTNH, lse_IBKGt = saved
    tokens, rows = _bound((tokens, rows), dout_BTNH)
    cut, heads = _cutter(static.block), k_BTKH.shape[2]
    q_IBKGtH, out, dout = (cut(_by_key_head(x, heads)) for x in (q_BTNH, out_BTNH, dout_BTNH))
    delta = (dout.astype(lse_IBKGt.dtype) * out.astype(lse_IBKGt.dtype)).sum(-1)
    queries = _Queries(q_IBKGtH, _cut_tokens(tokens, static.block), dout, delta, lse_IBKGt)
    keys = _Keys(cut(k_BTKH), cut(v_BTKH), queries.tokens)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, lse_IBKGt.dtype), (q_IBKGtH, keys[:2]))

    def visit(dq: jax.Array, keys: _Keys, dkv: Any) -> tuple[jax.Array, Any]:
        return _give_gradients(static, rows, queries, keys, dq, dkv)

    dq, dkv = _around_ring(visit, zeros[0], keys, zeros[1])
    gradients = (_join(dx, x) for dx, x in zip((dq, *dkv), (q_BTNH, k_BTKH, v_BTKH), strict=True))
    return *gradients, None, None


_attend.defvjp(_forward, _backward)


def _bound(arrays: Any, x_BTNH: jax.Array) -> Any:
    """The arrays, which seem to depend on x.

    Who sees whom is the same in all layers of a stack. JAX would compute it for all pairs of blocks at once,
    before the loop over the layers, and keep it.
    """
    return jax.lax.optimization_barrier((arrays, x_BTNH[:1, :1, :, :1]))[0]


def _around_ring(visit: Callable[..., tuple[Any, Any]], own: Any, keys: _Keys, sums: Any) -> tuple[Any, Any]:
    """Let all devices' keys visit this one: `own` stays here, and `sums` travel with the keys and come home.

    Args:
      visit: (own, keys, sums) -> (own, sums) after these keys.
    """
    stops = num_parts()
    if stops == 1:
        return visit(own, keys, sums)

    def stop(state: tuple[Any, _Keys, Any], _: None) -> tuple[Any, None]:
        own, keys, sums = state
        following = pass_on(keys)  # while this device computes
        own, sums = visit(own, keys, sums)
        return (own, following, pass_on(sums)), None

    (own, keys, sums), _ = jax.lax.scan(stop, (own, keys, sums), None, length=stops - 1)
    own, sums = visit(own, keys, sums)
    return own, pass_on(sums)


def _read_keys(static: _Static, rows: _Rows, queries: _Queries, keys: _Keys, read: _Read) -> _Read:
    def read_all(block: tuple[_Queries, _Read]) -> _Read:
        queries, read = block

        def read_one(read: _Read, keys: _Keys) -> tuple[_Read, None]:
            compute = functools.partial(_read_block, static, rows, queries, keys)
            may = may_see(_rule(static, rows), queries.tokens, keys.tokens)
            return jax.lax.cond(may, compute, lambda read: read, read), None

        return jax.lax.scan(read_one, read, keys)[0]

    return jax.lax.map(read_all, (queries, read))


def _read_block(static: _Static, rows: _Rows, queries: _Queries, keys: _Keys, read: _Read) -> _Read:
    logits_BKGts, sees_BKGts = _logits(static, rows, queries, keys)
    greatest = jnp.maximum(read.greatest, logits_BKGts.max(-1))
    probs_BKGts = jnp.where(sees_BKGts, jnp.exp(logits_BKGts - greatest[..., None]), 0)
    kept = jnp.exp(read.greatest - greatest)
    mixed = _product("BKGts,BKsH->BKGtH", probs_BKGts.astype(keys.v.dtype), keys.v)
    return _Read(greatest, read.total * kept + probs_BKGts.sum(-1), read.mixed * kept[..., None] + mixed)


def _give_gradients(
    static: _Static, rows: _Rows, queries: _Queries, keys: _Keys, dq: jax.Array, dkv: Any
) -> tuple[jax.Array, Any]:
    """The gradients of queries, and of keys and values, with what these blocks add to them."""

    def give_all(dkv: Any, block: tuple[_Queries, jax.Array]) -> tuple[Any, jax.Array]:
        queries, dq = block

        def give_one(dq: jax.Array, block: tuple[_Keys, Any]) -> tuple[jax.Array, Any]:
            keys, dkv = block
            compute = functools.partial(_block_gradients, static, rows, queries, keys)
            may = may_see(_rule(static, rows), queries.tokens, keys.tokens)
            return jax.lax.cond(may, compute, lambda dq, dkv: (dq, dkv), dq, dkv)

        dq, dkv = jax.lax.scan(give_one, dq, (keys, dkv))
        return dkv, dq

    dkv, dq = jax.lax.scan(give_all, dkv, (queries, dq))
    return dq, dkv


def _block_gradients(
    static: _Static, rows: _Rows, queries: _Queries, keys: _Keys, dq: jax.Array, dkv: Any
) -> tuple[jax.Array, Any]:
    q, dout, delta, lse = queries.q, queries.dout, queries.delta, queries.lse
    assert delta is not None, "made for the backward pass"
    assert lse is not None
    logits_BKGts, sees_BKGts = _logits(static, rows, queries, keys)
    probs = jnp.where(sees_BKGts, jnp.exp(logits_BKGts - lse[..., None]), 0)
    dprobs = _product("BKGtH,BKsH->BKGts", dout, keys.v)
    dlogits = (probs * (dprobs - delta[..., None]) * static.scale).astype(q.dtype)
    dk, dv = dkv
    dk += _product("BKGts,BKGtH->BKsH", dlogits, q)
    dv += _product("BKGts,BKGtH->BKsH", probs.astype(q.dtype), dout)
    return dq + _product("BKGts,BKsH->BKGtH", dlogits, keys.k), (dk, dv)


def _logits(static: _Static, rows: _Rows, queries: _Queries, keys: _Keys) -> tuple[jax.Array, jax.Array]:
    """The scaled logits of a block of queries for a block of keys, and which pairs are visible."""
    logits_BKGts = _product("BKGtH,BKsH->BKGts", queries.q, keys.k) * static.scale
    sees_Bts = sees(_rule(static, rows), queries.tokens, keys.tokens)
    sees_BKGts = sees_Bts[:, None, None]
    return jnp.where(sees_BKGts, logits_BKGts, MASKED), sees_BKGts


def _product(equation: str, x: Any, y: Any) -> jax.Array:
    return jnp.einsum(equation, x, y, preferred_element_type=sum_dtype(x))


def _rule(static: _Static, rows: _Rows) -> Rule:
    if static.causal is not None:
        return Rule(static.causal, static.window, rows.prefix)
    assert rows.causal is not None, "rows differ"
    return Rule(rows.causal, static.window, rows.prefix)


def _by_key_head(x_BTNH: jax.Array, num_key_heads: int) -> jax.Array:
    B, T, N, H = x_BTNH.shape
    return x_BTNH.reshape(B, T, num_key_heads, N // num_key_heads, H)


def _cutter(block: int) -> Callable[[jax.Array], jax.Array]:
    """[B,T,...,H] -> [blocks,B,...,block,H]: heads before tokens, which XLA:CPU multiplies faster."""

    def cut(x: jax.Array) -> jax.Array:
        x = _fill(x, block, 0)
        x = x.reshape(x.shape[0], -1, block, *x.shape[2:])
        return jnp.moveaxis(x.swapaxes(0, 1), 2, -2)

    return cut


def _join(blocks: jax.Array, like_BTNH: jax.Array) -> jax.Array:
    """The way back of a cut, in the shape and dtype of what was cut."""
    x = jnp.moveaxis(blocks, -2, 2).swapaxes(0, 1)
    B, T = like_BTNH.shape[:2]
    return x.reshape(B, -1, *like_BTNH.shape[2:])[:, :T].astype(like_BTNH.dtype)


def _cut_tokens(tokens: Tokens, block: int) -> Tokens:
    documents = _fill(tokens.documents, block, NO_DOCUMENT)
    places = jnp.pad(tokens.places, (0, -len(tokens.places) % block), mode="edge")  # no block reaches further
    return Tokens(documents.reshape(len(documents), -1, block).swapaxes(0, 1), places.reshape(-1, block))


def _fill(x: jax.Array, block: int, value: int) -> jax.Array:
    """x [B,T,...] with its tokens filled up to a multiple of the block."""
    widths = [(0, 0), (0, -x.shape[1] % block)] + [(0, 0)] * (x.ndim - 2)
    return jnp.pad(x, widths, constant_values=value)
