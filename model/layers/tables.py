"""A table of vectors, one for each id: ids look them up, and a loss compares hidden states with all of them.

The table is gathered in the compute dtype, once for all its uses. Each use sums its gradient over a
device's rows in float32, and gives it to the parameter's shard. Along the vocabulary the table stays split;
what is reduced for that is written here and in the loss.
"""

# B batch, T tokens, D model, V rows of the table, or those of a device inside the functions that it runs

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.sharding.collectives import device_sum
from flaxmill.sharding.local_rows import gather, gradient_dtype, scatter
from flaxmill.sharding.rules import ACTIVATION_RULES, LogicalAxes, constrain, mesh_axes, num_shards

VOCABULARY = ("vocab", "embed")
"""The logical axes of a table of tokens."""


class Table(NamedTuple):
    """A table as its uses need it."""

    whole: jax.Array
    """[V,D] in the compute dtype, and whole along D. It takes no gradient."""
    shard: jax.Array
    """[V,D]: what a device holds of the parameter. It takes the gradient."""
    axes: LogicalAxes
    """The parameter's logical axes."""


class TableUse(NamedTuple):
    """What a use of a table knows when the program is traced."""

    axes: LogicalAxes
    parameter_dtype: Any
    split: str | None
    """The mesh axis along which each device has rows of the table of its own; None: it has them all."""


def open_table(shard_VD: jax.Array, axes: LogicalAxes, dtype: Any) -> Table:
    """Gathers a table."""
    kept = axes[0] if axes[0] in ACTIVATION_RULES else None
    return Table(constrain(gather(shard_VD, axes, dtype), kept, None), shard_VD, axes)


def use_of(table: Table) -> TableUse:
    axis, mesh = table.axes[0], jax.sharding.get_abstract_mesh()
    split = None
    if axis is not None and axis in ACTIVATION_RULES and not mesh.empty:
        split = mesh_axes(axis, ACTIVATION_RULES, mesh)
    assert split is None or isinstance(split, str), "a table is split along one mesh axis"
    return TableUse(tuple(table.axes), table.shard.dtype, split if num_shards(split, mesh) > 1 else None)


def give_gradient(use: TableUse, dtable_VD: jax.Array) -> jax.Array:
    """What the parameter's shard gets of a gradient that is summed over this device's rows."""
    return scatter(dtable_VD.astype(gradient_dtype(dtable_VD)), use.axes).astype(use.parameter_dtype)


def on_split(use: TableUse, run: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`run` on the rows of the table that each device has."""
    if use.split is None:
        return run
    # check_vma=False: every reduction is written out.
    return jax.shard_map(run, in_specs=in_specs, out_specs=out_specs, axis_names={use.split}, check_vma=False)


def row_numbers(use: TableUse, size: int) -> jax.Array:
    """The numbers of the table's rows that this device has, inside `on_split`."""
    offset = 0 if use.split is None else jax.lax.axis_index(use.split) * size
    return offset + jnp.arange(size)


def local_ids(use: TableUse, ids: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Where this device has each id among its `size` rows, and whether it does, inside `on_split`."""
    local = ids - row_numbers(use, size)[0]
    return jnp.clip(local, 0, size - 1), (local >= 0) & (local < size)


def look_up(table: Table, ids_BT: jax.Array) -> jax.Array:
    """[B,T,D]: the vectors of ids, in the compute dtype."""
    return _look_up(use_of(table), table.whole, table.shard, ids_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _look_up(use: TableUse, whole_VD: jax.Array, shard_VD: jax.Array, ids_BT: jax.Array) -> jax.Array:
    del shard_VD  # is here for its gradient

    def on_device(whole_VD: jax.Array, ids_BT: jax.Array) -> jax.Array:
        if use.split is None:
            return whole_VD[ids_BT]
        local_BT, is_here_BT = local_ids(use, ids_BT, len(whole_VD))
        found_BTD = jnp.where(is_here_BT[..., None], whole_VD[local_BT], 0)
        return device_sum(found_BTD, use.split)  # one device has it, the others have zeros

    rows = PartitionSpec(use.split)
    return on_split(use, on_device, (rows, PartitionSpec()), PartitionSpec())(whole_VD, ids_BT)


def _look_up_forward(use: TableUse, whole_VD: jax.Array, shard_VD: jax.Array, ids_BT: jax.Array):
    return _look_up(use, whole_VD, shard_VD, ids_BT), (whole_VD, ids_BT)


def _look_up_backward(use: TableUse, saved: tuple[jax.Array, jax.Array], g_BTD: jax.Array):
    whole_VD, ids_BT = saved

    def on_device(whole_VD: jax.Array, ids_BT: jax.Array, g_BTD: jax.Array) -> jax.Array:
        zeros_VD = jnp.zeros(whole_VD.shape, sum_dtype(g_BTD))  # so that equal ids are summed in float32
        g_BTD = g_BTD.astype(zeros_VD.dtype)
        if use.split is None:
            return zeros_VD.at[ids_BT].add(g_BTD)
        local_BT, is_here_BT = local_ids(use, ids_BT, len(whole_VD))
        return zeros_VD.at[local_BT].add(jnp.where(is_here_BT[..., None], g_BTD, 0))

    rows, whole = PartitionSpec(use.split), PartitionSpec()
    dtable_VD = on_split(use, on_device, (rows, whole, whole), rows)(whole_VD, ids_BT, g_BTD)
    return jnp.zeros_like(whole_VD), give_gradient(use, dtable_VD), None


_look_up.defvjp(_look_up_forward, _look_up_backward)
