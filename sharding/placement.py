"""Put host rows on the mesh as global arrays, and say which rows and tokens a host must have."""

import functools
from collections.abc import Callable, Sequence

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


def local_tokens(mesh: Mesh, num_tokens: int, *, zigzag: bool = False) -> list[range]:
    """The tokens of each row that this process's devices hold: ranges with others between them, in order.

    Args:
      zigzag: that of `place_parts`.
    """
    held = np.sort(_local_order(mesh, num_tokens, zigzag))
    runs = np.split(held, np.flatnonzero(np.diff(held) > 1) + 1)
    return [range(int(run[0]), int(run[-1]) + 1) for run in runs]


def place_rows(mesh: Mesh, rows: HostRows, num_rows: int) -> dict[str, jax.Array]:
    """Global arrays [num_rows, ...] from the rows that this process holds (`local_rows`), in order.

    Rows are whole on each of their devices; `place_parts` divides them.
    """
    return _place(mesh, rows, num_rows, lambda name, ndim: False)


def num_row_shards(mesh: Mesh) -> int:
    """The devices among which the rows of a batch are divided."""
    return num_shards(mesh_axes("batch", ACTIVATION_RULES, mesh), mesh)


def place_parts(
    mesh: Mesh, parts: Sequence[HostRows], num_rows: int, *, zigzag: bool = False
) -> dict[str, jax.Array]:
    """As `place_rows`, but devices that share a row hold a part of its tokens each.

    Args:
      parts: the rows of each range of `local_tokens`.
      zigzag: with tokens in the order of `zigzag_order`, and `places` [num_rows,T] that name each one.
    """
    rows = _join(parts)
    if zigzag and _num_parts(mesh) > 1:
        rows = _in_zigzag(mesh, rows)
    return _place(mesh, rows, num_rows, has_tokens)


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


def _num_parts(mesh: Mesh) -> int:
    """The parts that each row is divided into."""
    return num_shards(mesh_axes("row_tokens", ACTIVATION_RULES, mesh), mesh)


def _local_parts(mesh: Mesh) -> list[int]:
    """The parts of each row that this process's devices hold."""
    num_parts = _num_parts(mesh)
    sharding = NamedSharding(mesh, partition_spec(("row_tokens",), ACTIVATION_RULES, mesh))
    slices = sharding.addressable_devices_indices_map((num_parts,)).values()
    return sorted({index[0].indices(num_parts)[0] for index in slices if index is not None})


def _local_order(mesh: Mesh, num_tokens: int, zigzag: bool) -> np.ndarray:
    """int32 [t]: the tokens of each row that this process's devices hold, in the order of the devices."""
    num_parts = _num_parts(mesh)
    in_order = np.arange(num_tokens, dtype=np.int32)
    order = zigzag_order(num_tokens, num_parts) if zigzag and num_parts > 1 else in_order
    return order.reshape(num_parts, -1)[_local_parts(mesh)].ravel()


def _join(parts: Sequence[HostRows]) -> HostRows:
    """Rows of the tokens of all parts; what a row has once is the same in each."""
    if len(parts) == 1:
        return parts[0]
    return {
        name: np.concatenate([part[name] for part in parts], axis=1) if has_tokens(name, x.ndim) else x
        for name, x in parts[0].items()
    }


def _in_zigzag(mesh: Mesh, rows: HostRows) -> HostRows:
    """Rows of this process's tokens, moved from their own order into the order of its devices."""
    shape = rows["tokens"].shape
    order = _local_order(mesh, shape[1] * _num_parts(mesh) // len(_local_parts(mesh)), zigzag=True)
    moves = np.searchsorted(np.sort(order), order)
    moved = {name: x[:, moves] if has_tokens(name, x.ndim) else x for name, x in rows.items()}
    return moved | {"places": np.broadcast_to(order, shape)}


def _place(
    mesh: Mesh, rows: HostRows, num_rows: int, is_divided: Callable[[str, int], bool]
) -> dict[str, jax.Array]:
    """Global arrays of this process's rows; `is_divided` says, by name and dimensions, which have parts."""
    if jax.process_count() == 1:
        shardings = {name: part_sharding(mesh, x.ndim, is_divided(name, x.ndim)) for name, x in rows.items()}
        # One call for all takes half the time. Copied, so that no step can see later rows in reused memory.
        return jax.device_put(rows, shardings, may_alias=False)
    return {name: _place_own(mesh, x, num_rows, is_divided(name, x.ndim)) for name, x in rows.items()}


def _place_own(mesh: Mesh, x: np.ndarray, num_rows: int, is_divided: bool) -> jax.Array:
    """A global array from this process's rows, and from its tokens of them if these are divided."""
    first, _ = local_rows(mesh, num_rows)
    held, shape = _local_parts(mesh), (num_rows, *x.shape[1:])
    if is_divided:
        shape = (num_rows, x.shape[1] // len(held) * _num_parts(mesh), *x.shape[2:])

    def own(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        start, stop, _ = index[0].indices(num_rows)
        rows = x[start - first : stop - first]
        if not is_divided:
            return rows
        begin, end, _ = index[1].indices(shape[1])
        place = held.index(begin // (end - begin)) * (end - begin)
        return rows[:, place : place + end - begin]

    return jax.make_array_from_callback(shape, part_sharding(mesh, x.ndim, is_divided), own)
