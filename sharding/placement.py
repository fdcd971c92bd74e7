"""Put host rows on the mesh as global arrays, and say which rows a host must read."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxmill.sharding.rules import ACTIVATION_RULES, partition_spec

HostRows = dict[str, np.ndarray]


def local_rows(mesh: Mesh, num_rows: int) -> tuple[int, int]:
    """The first and one-past-last of the `num_rows` global rows that this process's devices hold."""
    sharding = NamedSharding(mesh, partition_spec(("batch",), ACTIVATION_RULES, mesh))
    slices = sharding.addressable_devices_indices_map((num_rows,)).values()
    bounds = [index[0].indices(num_rows) for index in slices if index is not None]
    return min(start for start, _, _ in bounds), max(stop for _, stop, _ in bounds)


def place_rows(mesh: Mesh, rows: HostRows, num_rows: int) -> dict[str, jax.Array]:
    """Global arrays [num_rows, ...] from the rows that this process holds (`local_rows`), in order."""
    shardings = {name: rows_sharding(mesh, value.ndim) for name, value in rows.items()}
    if jax.process_count() == 1:
        # One call for all takes half the time. Copied, so that no step can see later rows in reused memory.
        return jax.device_put(rows, shardings, may_alias=False)
    return {
        name: jax.make_array_from_process_local_data(shardings[name], value, (num_rows, *value.shape[1:]))
        for name, value in rows.items()
    }


def place_on_devices(mesh: Mesh, values: Sequence[int]) -> jax.Array:
    """int32 [devices, len(values)]: each of this process's devices holds the values that it gives."""
    row = np.asarray([values], np.int32)
    return jax.make_array_from_callback(
        (mesh.size, len(values)), NamedSharding(mesh, PartitionSpec(mesh.axis_names)), lambda index: row
    )


@functools.cache
def rows_sharding(mesh: Mesh, ndim: int) -> NamedSharding:
    """Where an array of rows [num_rows, ...] with so many dimensions lives."""
    axes = ("batch",) + (None,) * (ndim - 1)
    return NamedSharding(mesh, partition_spec(axes, ACTIVATION_RULES, mesh))
