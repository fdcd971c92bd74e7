"""Cross-entropy over a vocabulary that may be split over devices, without ever holding all the logits."""

# B batch, T tokens, t tokens of a chunk, C chunks, D model, V vocab (local to a device inside), M = B x t

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from flaxmill.model.layers.dense import product, sum_over_rows
from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.model.layers.tables import (
    Table,
    TableUse,
    give_gradient,
    local_ids,
    on_split,
    row_numbers,
    use_of,
)
from flaxmill.sharding.collectives import device_sum
from flaxmill.sharding.rules import ACTIVATION_RULES, mesh_axes, num_shards, platform

CHUNK_BYTES = {"cpu": 2**28, "gpu": 2**30, "tpu": 2**30}
"""Of float32 logits that one device holds at a time. Each chunk reads and writes the table's whole gradient:
accelerators need thousands of tokens in a chunk to be busy with products."""
_ROWS_OF_TILE = 8  # of a TPU's vector memory
MASKED = -1e30


class TokenLosses(NamedTuple):
    """Each [B,T]: float32 `nll` = -log p(target), float32 `log_z` = log-sum-exp, bool `correct`."""

    nll: jax.Array
    log_z: jax.Array
    correct: jax.Array


class _Static(NamedTuple):
    """What is known when the program is traced."""

    use: TableUse
    num_chunks: int
    vocab_size: int
    has_padding: bool
    """Some rows of the table are no tokens."""
    label_smoothing: float


def cross_entropy(
    hidden_BTD: jax.Array,
    table: Table,
    bias_V: jax.Array | None,
    targets_BT: jax.Array,
    *,
    vocab_size: int,
    chunk_tokens: int | None = None,
    label_smoothing: float = 0.0,
) -> TokenLosses:
    """Negative log-likelihood of each target under softmax(hidden @ table.T + bias).

    Chunks run along each row's tokens, never across the batch, so that every device keeps its rows: the
    table is gathered before the loop over chunks, and its gradient is summed on the device and reduced
    once after it. A single chunk keeps its logits for the backward pass, several compute them again.

    Args:
      table: [padded V, D]; ids from `vocab_size` on are padding and have probability zero.
      chunk_tokens: tokens of a row in a chunk; None: as many as CHUNK_BYTES of logits allow.
      label_smoothing: the share of a target's probability that is spread over the vocabulary.
    """
    B, T, _ = hidden_BTD.shape
    num_rows = table.whole.shape[0]
    use = use_of(table)
    if chunk_tokens is None:
        chunk_tokens = tokens_of_chunk(4 * max(1, B * num_rows // _num_devices(use)), platform())
    length = chunk_length(T, chunk_tokens, platform())
    num_chunks = -(-T // length)
    padding = [(0, 0), (0, -T % length)]  # chunks of equal length; the last places are cut off again
    static = _Static(use, num_chunks, vocab_size, num_rows > vocab_size, label_smoothing)
    hidden_BTD, targets_BT = jnp.pad(hidden_BTD, [*padding, (0, 0)]), jnp.pad(targets_BT, padding)
    losses: Any = _losses(static, hidden_BTD, table.whole, table.shard, bias_V, targets_BT)
    return TokenLosses(*(values[:, :T] for values in losses))


def tokens_of_chunk(bytes_a_token: int, platform: str) -> int:
    """The most tokens of a row in a chunk, by the bytes of one token's logits in all rows of a device."""
    return max(1, CHUNK_BYTES[platform] // bytes_a_token)


def chunk_length(num_tokens: int, most: int, platform: str) -> int:
    """Tokens of a row in each chunk, of so many at most: about as many in all.

    On accelerators a long chunk is a whole number of tiles, for which it may be some tokens longer: tokens of
    several rows are moved before they can be the rows of one matrix, unless they fill tiles.
    """
    num_chunks = -(-num_tokens // most)
    length = -(-num_tokens // num_chunks)
    is_whole = platform == "cpu" or num_chunks == 1 or length < 8 * _ROWS_OF_TILE
    return length if is_whole else length + -length % _ROWS_OF_TILE


def _num_devices(use: TableUse) -> int:
    """The devices that share the logits of these rows."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return 1
    return num_shards(mesh_axes("batch", ACTIVATION_RULES, mesh), mesh) * num_shards(use.split, mesh)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _losses(static, hidden_BTD, whole_VD, shard_VD, bias_V, targets_BT):
    return _losses_forward(static, hidden_BTD, whole_VD, shard_VD, bias_V, targets_BT)[0]


def _losses_forward(static, hidden_BTD, whole_VD, shard_VD, bias_V, targets_BT):
    del shard_VD  # is here for its gradient
    rows, table, vocab, kept = _specs(static)
    forward = functools.partial(_forward_on_device, static)
    forward = on_split(static.use, forward, (rows, table, vocab, rows), ((rows, rows, rows), kept))
    losses, logits = forward(hidden_BTD, whole_VD, bias_V, targets_BT)
    return losses, (hidden_BTD, whole_VD, bias_V, targets_BT, losses[1], logits)


def _losses_backward(static, saved, gradients):
    rows, table, vocab, kept = _specs(static)
    backward = functools.partial(_backward_on_device, static)
    in_specs = (rows, table, vocab, rows, rows, kept, rows, rows)
    backward = on_split(static.use, backward, in_specs, (rows, table, vocab))
    dhidden_BTD, dtable_VD, dbias_V = backward(*saved, gradients[0], gradients[1])
    whole_VD, bias_V = saved[1], saved[2]
    dshard_VD = give_gradient(static.use, dtable_VD)
    dbias_V = None if bias_V is None else dbias_V.astype(bias_V.dtype)
    return dhidden_BTD, jnp.zeros_like(whole_VD), dshard_VD, dbias_V, None


_losses.defvjp(_losses_forward, _losses_backward)


def _specs(static: _Static) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec, PartitionSpec | None]:
    """Specs for rows, the table, vectors over the vocabulary, and logits that are kept, for `on_split`."""
    split = static.use.split
    kept = PartitionSpec(None, None, None, split) if static.num_chunks == 1 else None
    return PartitionSpec(), PartitionSpec(split), PartitionSpec(split), kept


def _forward_on_device(static, hidden_BTD, table_VD, bias_V, targets_BT):
    split, smoothing = static.use.split, static.label_smoothing

    def chunk(_, inputs):
        hidden_BtD, targets_Bt = inputs
        logits_BtV = _logits(static, hidden_BtD, table_VD, bias_V)
        max_Bt = _over(jax.lax.pmax, logits_BtV.max(-1), split)
        sum_Bt = _over(device_sum, jnp.exp(logits_BtV - max_Bt[..., None]).sum(-1), split)
        log_z_Bt = max_Bt + jnp.log(sum_Bt)
        target_Bt = _over(device_sum, _pick(static, logits_BtV, targets_Bt), split)
        wanted_Bt = target_Bt
        if smoothing:
            all_Bt = jnp.where(_is_used(static, logits_BtV.shape[-1]), logits_BtV, 0).sum(-1)
            mean_Bt = _over(device_sum, all_Bt, split) / static.vocab_size
            wanted_Bt = (1 - smoothing) * target_Bt + smoothing * mean_Bt
        losses = (log_z_Bt - wanted_Bt, log_z_Bt, target_Bt >= max_Bt)
        return None, (losses, logits_BtV if static.num_chunks == 1 else None)

    _, (losses, logits) = jax.lax.scan(chunk, None, _chunks(static.num_chunks, (hidden_BTD, targets_BT)))
    return jax.tree.map(_join, losses), logits


def _backward_on_device(
    static, hidden_BTD, table_VD, bias_V, targets_BT, log_z_BT, logits, dnll_BT, dlog_z_BT
):
    num_chunks, smoothing = static.num_chunks, static.label_smoothing

    def chunk(carry, inputs):
        dtable_VD, dbias_V = carry
        hidden_BtD, targets_Bt, log_z_Bt, dnll_Bt, dlog_z_Bt, logits_BtV = inputs
        if logits_BtV is None:
            logits_BtV = _logits(static, hidden_BtD, table_VD, bias_V)
        size = logits_BtV.shape[-1]
        probs_BtV = jnp.exp(logits_BtV - log_z_Bt[..., None])
        wanted_BtV = (row_numbers(static.use, size) == targets_Bt[..., None]).astype(probs_BtV.dtype)
        if smoothing:
            spread_V = _is_used(static, size) * (smoothing / static.vocab_size)
            wanted_BtV = (1 - smoothing) * wanted_BtV + spread_V
        dlogits_BtV = probs_BtV * (dnll_Bt + dlog_z_Bt)[..., None] - wanted_BtV * dnll_Bt[..., None]
        low_MV = dlogits_BtV.reshape(-1, dlogits_BtV.shape[-1]).astype(hidden_BtD.dtype)
        hidden_MD = hidden_BtD.reshape(low_MV.shape[0], -1)
        dtable_VD += sum_over_rows(low_MV, hidden_MD, dtable_VD.dtype)
        dbias_V = None if bias_V is None else dbias_V + dlogits_BtV.sum((0, 1))
        dhidden_MD = _over(device_sum, product(low_MV, table_VD, 1, 0), static.use.split)
        return (dtable_VD, dbias_V), dhidden_MD.reshape(hidden_BtD.shape)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, dnll_BT.dtype), (table_VD, bias_V))
    per_chunk = _chunks(num_chunks, (hidden_BTD, targets_BT, log_z_BT, dnll_BT, dlog_z_BT))
    (dtable_VD, dbias_V), dhidden = jax.lax.scan(chunk, zeros, (*per_chunk, logits))
    return _join(dhidden), dtable_VD, dbias_V


def _logits(static, hidden_BtD, table_VD, bias_V):
    logits_BtV = jnp.einsum("BtD,VD->BtV", hidden_BtD, table_VD, preferred_element_type=sum_dtype(hidden_BtD))
    # One more pass over all logits, where there is anything to add.
    if static.has_padding:
        is_used_V = _is_used(static, table_VD.shape[0])
        return logits_BtV + jnp.where(is_used_V, 0 if bias_V is None else bias_V, MASKED)
    return logits_BtV if bias_V is None else logits_BtV + bias_V


def _pick(static, logits_BtV, targets_Bt):
    """The target's logit where this device holds it, else zero."""
    local_Bt, is_here_Bt = local_ids(static.use, targets_Bt, logits_BtV.shape[-1])
    picked_Bt = jnp.take_along_axis(logits_BtV, local_Bt[..., None], -1)[..., 0]
    return jnp.where(is_here_Bt, picked_Bt, 0)


def _is_used(static: _Static, size: int) -> jax.Array:
    """bool [V]: which of the device's rows are tokens, and not padding."""
    return row_numbers(static.use, size) < static.vocab_size


def _over(reduce, x, axes):
    return reduce(x, axes) if axes else x


def _chunks(num_chunks, arrays):
    """[B,T,...] -> [C,B,t,...]"""
    split = lambda x: x.reshape(x.shape[0], num_chunks, -1, *x.shape[2:]).swapaxes(0, 1)  # noqa: E731
    return tuple(map(split, arrays))


def _join(x):
    """[C,B,t,...] -> [B,T,...]"""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:])
