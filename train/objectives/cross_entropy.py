"""Cross-entropy over a vocabulary that may be split over devices, without ever holding all the logits."""

# B batch, T tokens, t tokens of a chunk, C chunks, D model, V vocab (local to a device inside), M = B x t

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.sharding.rules import ACTIVATION_RULES, PARAMETER_RULES, MeshAxes, mesh_axes, num_shards

CHUNK_BYTES = 256 * 2**20  # float32 logits that one device holds at a time
MASKED = -1e30


class TokenLosses(NamedTuple):
    """Each [B,T]: float32 `nll` = -log p(target), float32 `log_z` = log-sum-exp, bool `correct`."""

    nll: jax.Array
    log_z: jax.Array
    correct: jax.Array


class _Layout(NamedTuple):
    """The mesh axes that split each of these while the loss runs; None without a mesh."""

    batch: MeshAxes = None
    vocab: MeshAxes = None
    embed: MeshAxes = None


def cross_entropy(
    hidden_BTD: jax.Array,
    table_VD: jax.Array,
    bias_V: jax.Array | None,
    targets_BT: jax.Array,
    *,
    vocab_size: int,
    chunk_tokens: int | None = None,
) -> TokenLosses:
    """Negative log-likelihood of each target under softmax(hidden @ table.T + bias).

    Chunks run along each row's tokens, never across the batch, so that every device keeps its rows: the
    table is gathered once before the loop over chunks, and its gradient is summed on the device and reduced
    once after it. A single chunk keeps its logits for the backward pass, several compute them again.

    Args:
      table_VD: float32 [padded V, D]; ids from `vocab_size` on are padding and have probability zero.
      chunk_tokens: tokens of a row in a chunk; None: as many as CHUNK_BYTES of logits allow.
    """
    mesh = jax.sharding.get_abstract_mesh()
    alone = mesh.empty or mesh.size == 1
    layout = _Layout() if alone else _layout(mesh)
    B, T, _ = hidden_BTD.shape
    shards = num_shards(layout.batch, mesh) * num_shards(layout.vocab, mesh)
    if chunk_tokens is None:
        row_bytes = 4 * max(1, B * table_VD.shape[0] // shards)
        chunk_tokens = max(1, CHUNK_BYTES // row_bytes)
    num_chunks = -(-T // chunk_tokens)
    bias_V = jnp.zeros(table_VD.shape[0]) if bias_V is None else bias_V
    padding = [(0, 0), (0, -T % num_chunks)]  # chunks of equal length; the last places are cut off again
    hidden_BTD = jnp.pad(hidden_BTD, [*padding, (0, 0)])
    losses: Any = _losses(
        layout, (num_chunks, vocab_size), hidden_BTD, table_VD, bias_V, jnp.pad(targets_BT, padding)
    )
    return TokenLosses(*(values[:, :T] for values in losses))


def _layout(mesh: jax.sharding.AbstractMesh) -> _Layout:
    return _Layout(
        mesh_axes("batch", ACTIVATION_RULES, mesh),
        mesh_axes("vocab", ACTIVATION_RULES, mesh),
        mesh_axes("embed", PARAMETER_RULES, mesh),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _losses(layout, static, hidden_BTD, table_VD, bias_V, targets_BT):
    return _losses_forward(layout, static, hidden_BTD, table_VD, bias_V, targets_BT)[0]


def _losses_forward(layout, static, hidden_BTD, table_VD, bias_V, targets_BT):
    rows, table, vocab = _specs(layout)
    kept = PartitionSpec(None, *rows, layout.vocab) if static[0] == 1 else None
    forward = functools.partial(_forward_on_device, layout, static)
    forward = _on_mesh(layout, forward, (rows, table, vocab, rows), ((rows, rows, rows), kept))
    low_VD = table_VD.astype(hidden_BTD.dtype)  # gathered in the compute dtype
    losses, logits = forward(hidden_BTD, low_VD, bias_V, targets_BT)
    saved = (hidden_BTD, low_VD, bias_V, targets_BT, losses[1], logits)
    return losses, saved


def _losses_backward(layout, static, saved, gradients):
    rows, table, vocab = _specs(layout)
    split_table = PartitionSpec(layout.vocab, layout.embed)
    kept = PartitionSpec(None, *rows, layout.vocab) if static[0] == 1 else None
    in_specs = (rows, table, vocab, rows, rows, kept, rows, rows)
    backward = functools.partial(_backward_on_device, layout, static)
    backward = _on_mesh(layout, backward, in_specs, (rows, split_table, vocab))
    dhidden_BTD, dtable_VD, dbias_V = backward(*saved, gradients[0], gradients[1])
    return dhidden_BTD, dtable_VD, dbias_V, None


_losses.defvjp(_losses_forward, _losses_backward)


def _specs(layout: _Layout) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec]:
    """Specs for rows, for the table (not split along D) and for vectors over the vocabulary."""
    return PartitionSpec(layout.batch), PartitionSpec(layout.vocab), PartitionSpec(layout.vocab)


def _on_mesh(layout: _Layout, run: Callable, in_specs: Any, out_specs: Any) -> Callable:
    if layout == _Layout():
        return run
    # check_vma=False: every reduction is written out below, which is the point of this file.
    return jax.shard_map(run, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _forward_on_device(layout, static, hidden_BTD, table_VD, bias_V, targets_BT):
    num_chunks, vocab_size = static

    def chunk(_, inputs):
        hidden_BtD, targets_Bt = inputs
        logits_BtV = _logits(layout, vocab_size, hidden_BtD, table_VD, bias_V)
        max_Bt = _over(jax.lax.pmax, logits_BtV.max(-1), layout.vocab)
        sum_Bt = _over(jax.lax.psum, jnp.exp(logits_BtV - max_Bt[..., None]).sum(-1), layout.vocab)
        log_z_Bt = max_Bt + jnp.log(sum_Bt)
        target_Bt = _over(jax.lax.psum, _pick(layout, logits_BtV, targets_Bt), layout.vocab)
        losses = (log_z_Bt - target_Bt, log_z_Bt, target_Bt >= max_Bt)
        return None, (losses, logits_BtV if num_chunks == 1 else None)

    _, (losses, logits) = jax.lax.scan(chunk, None, _chunks(num_chunks, (hidden_BTD, targets_BT)))
    return jax.tree.map(_join, losses), logits


def _backward_on_device(
    layout, static, hidden_BTD, table_VD, bias_V, targets_BT, log_z_BT, logits, dnll_BT, dlog_z_BT
):
    num_chunks, vocab_size = static

    def chunk(carry, inputs):
        dtable_VD, dbias_V = carry
        hidden_BtD, targets_Bt, log_z_Bt, dnll_Bt, dlog_z_Bt, logits_BtV = inputs
        if logits_BtV is None:
            logits_BtV = _logits(layout, vocab_size, hidden_BtD, table_VD, bias_V)
        probs_BtV = jnp.exp(logits_BtV - log_z_Bt[..., None])
        at_target = _local_ids(layout, logits_BtV.shape[-1]) == targets_Bt[..., None]
        dlogits_BtV = probs_BtV * (dnll_Bt + dlog_z_Bt)[..., None] - jnp.where(
            at_target, dnll_Bt[..., None], 0
        )
        low_MV = dlogits_BtV.reshape(-1, dlogits_BtV.shape[-1]).astype(hidden_BtD.dtype)
        hidden_MD = hidden_BtD.reshape(low_MV.shape[0], -1)
        dtable_VD += jax.lax.dot_general(
            low_MV, hidden_MD, (((0,), (0,)), ((), ())), preferred_element_type=dtable_VD.dtype
        )
        dbias_V += dlogits_BtV.sum((0, 1))
        dhidden_MD = _over(jax.lax.psum, low_MV @ table_VD, layout.vocab)
        return (dtable_VD, dbias_V), dhidden_MD.reshape(hidden_BtD.shape)

    zeros = (jnp.zeros(table_VD.shape, dnll_BT.dtype), jnp.zeros(bias_V.shape, dnll_BT.dtype))
    per_chunk = _chunks(num_chunks, (hidden_BTD, targets_BT, log_z_BT, dnll_BT, dlog_z_BT))
    (dtable_VD, dbias_V), dhidden = jax.lax.scan(chunk, zeros, (*per_chunk, logits))
    return _join(dhidden), _reduce_table(layout, dtable_VD), _over(jax.lax.psum, dbias_V, layout.batch)


def _reduce_table(layout: _Layout, dtable_VD: jax.Array) -> jax.Array:
    """Sum over the rows' devices; each keeps only its share along D if the parameter is split along D."""
    batch = layout.batch if isinstance(layout.batch, tuple) else ()
    if layout.embed not in batch:
        return _over(jax.lax.psum, dtable_VD, layout.batch)
    dtable_VD = jax.lax.psum_scatter(dtable_VD, layout.embed, scatter_dimension=1, tiled=True)
    return _over(jax.lax.psum, dtable_VD, tuple(axis for axis in batch if axis != layout.embed))


def _logits(layout, vocab_size, hidden_BtD, table_VD, bias_V):
    logits_BtV = jnp.einsum("BtD,VD->BtV", hidden_BtD, table_VD, preferred_element_type=sum_dtype(hidden_BtD))
    return jnp.where(_local_ids(layout, table_VD.shape[0]) < vocab_size, logits_BtV + bias_V, MASKED)


def _pick(layout, logits_BtV, targets_Bt):
    """The target's logit where this device holds it, else zero."""
    size = logits_BtV.shape[-1]
    local_Bt = targets_Bt - _local_ids(layout, size)[0]
    picked_Bt = jnp.take_along_axis(logits_BtV, jnp.clip(local_Bt, 0, size - 1)[..., None], -1)[..., 0]
    return jnp.where((local_Bt >= 0) & (local_Bt < size), picked_Bt, 0)


def _local_ids(layout: _Layout, size: int) -> jax.Array:
    """The global token ids of the vocabulary rows that this device holds."""
    offset = 0 if layout.vocab is None else jax.lax.axis_index(layout.vocab) * size
    return offset + jnp.arange(size)


def _over(reduce, x, axes):
    return reduce(x, axes) if axes else x


def _chunks(num_chunks, arrays):
    """[B,T,...] -> [C,B,t,...]"""
    split = lambda x: x.reshape(x.shape[0], num_chunks, -1, *x.shape[2:]).swapaxes(0, 1)  # noqa: E731
    return tuple(map(split, arrays))


def _join(x):
    """[C,B,t,...] -> [B,T,...]"""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:])
