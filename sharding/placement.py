"""Put host rows on the mesh as global arrays, and say which rows a host must read."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxmill.sharding.rules import ACTIVATION_RULES, mesh_axes, num_shards, partition_spec

HostRows = dict[str, np.ndarray]

_OF_TOKENS = frozenset(
    {"tokens", "mask", "positions", "documents", "segments", "targets", "weights", "places"}
)


def has_tokens(name: str, ndim: int) -> bool:
    """Whether an array of a batch has a dimension of tokens after its rows."""
    return name in _OF_TOKENS and ndim > 1


def local_rows(mesh: Mesh, num_rows: int) -> tuple[int, int]:
    """The first and one-past-last of the `num_rows` global rows that this process's devices hold."""
    sharding = NamedSharding(mesh, partition_spec(("batch",), ACTIVATION_RULES, mesh))
    slices = sharding.addressable_devices_indices_map((num_rows,)).values()
    bounds = [index[0].indices(num_rows) for index in slices if index is not None]
    return min(start for start, _, _ in bounds), max(stop for _, stop, _ in bounds)


def place_rows(mesh: Mesh, rows: HostRows, num_rows: int) -> dict[str, jax.Array]:
    """Global arrays [num_rows, ...] from the rows that this process holds (`local_rows`), in order.

    Rows are whole on each of their devices; `place_parts` divides them.
    """
    return _place(mesh, rows, num_rows, {name: rows_sharding(mesh, x.ndim) for name, x in rows.items()})


def place_parts(mesh: Mesh, rows: HostRows, num_rows: int, *, zigzag: bool = False) -> dict[str, jax.Array]:
    """As `place_rows`, but devices that share a row hold a part of its tokens each.

    Args:
      zigzag: with tokens in the order of `zigzag_order`, and `places` [num_rows,T] that name each one.
    """
    num_parts = num_shards(mesh_axes("row_tokens", ACTIVATION_RULES, mesh), mesh)
    if zigzag and num_parts > 1:
        rows = _in_zigzag(rows, num_parts)
    shardings = {name: part_sharding(mesh, x.ndim, has_tokens(name, x.ndim)) for name, x in rows.items()}
    return _place(mesh, rows, num_rows, shardings)


def zigzag_order(num_tokens: int, num_parts: int) -> np.ndarray:
    """int32 [T]: the tokens of a causal row in an order in which each part attends to as much as the others.

    Part i of n is chunk i and chunk 2n - 1 - i of 2n: one that sees little and one that sees much.
    """
    chunks = np.arange(num_tokens, dtype=np.int32).reshape(2 * num_parts, -1)
    return np.concatenate([chunks[[part, -1 - part]].ravel() for part in range(num_parts)])


def place_on_devices(mesh: Mesh, values: Sequence[int]) -> jax.Array:
    """int32 [devices, len(values)]: each of this process's devices holds the values that it gives."""
    row = np.asarray([values], np.int32)
    return jax.make_array_from_callback(
        (mesh.size, len(values)), NamedSharding(mesh, PartitionSpec(mesh.axis_names)), lambda index: row
    )


@functools.cache
def rows_sharding(mesh: Mesh, ndim: int) -> NamedSharding:
    """Where an array of whole rows [num_rows, ...] with so many dimensions lives."""
    return part_sharding(mesh, ndim, False)


@functools.cache
def part_sharding(mesh: Mesh, ndim: int, has_tokens: bool) -> NamedSharding:
    """Where an array of parts of rows lives; `has_tokens`: its second dimension is of tokens."""
    axes = ("batch", *(("row_tokens",) if has_tokens else ()))
    axes += (None,) * (ndim - len(axes))
    return NamedSharding(mesh, partition_spec(axes, ACTIVATION_RULES, mesh))


def _in_zigzag(rows: HostRows, num_parts: int) -> HostRows:
    order = zigzag_order(rows["tokens"].shape[1], num_parts)
    moved = {name: x[:, order] if has_tokens(name, x.ndim) else x for name, x in rows.items()}
    return moved | {"places": np.broadcast_to(order, rows["tokens"].shape)}


def _place(
    mesh: Mesh, rows: HostRows, num_rows: int, shardings: dict[str, NamedSharding]
) -> dict[str, jax.Array]:
    if jax.process_count() == 1:
        # One call for all takes half the time. Copied, so that no step can see later rows in reused memory.
        return jax.device_put(rows, shardings, may_alias=False)
    first, _ = local_rows(mesh, num_rows)

    def place(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(num_rows)
            return x[(slice(start - first, stop - first), *index[1:])]

        return jax.make_array_from_callback((num_rows, *x.shape[1:]), sharding, part)

    return {name: place(x, shardings[name]) for name, x in rows.items()}
