"""Fills parameters from a file's tensors: one stacked parameter at a time, and only each device's share."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from flaxmill.model.config import ModelConfig
from flaxmill.model.families.stored_tensors import copy_blocked, from_stored
from flaxmill.model.functional import init_params
from flaxmill.model.huggingface.files import Arrays
from flaxmill.model.huggingface.places import Leaf
from flaxmill.model.params import LeafPath, flatten
from flaxmill.sharding.rules import parameter_sharding

Index = tuple[slice, ...]

_ALIGNMENT = 64  # bytes; the CPU backend takes over a buffer aligned to this instead of copying it


def load_leaf(leaf: Leaf, arrays: Arrays, mesh: Mesh | None, not_finite: Counter[str]) -> jax.Array:
    """The parameter in float32; on a mesh, the shards of this process's devices, each read separately.

    Args:
      not_finite: counts the values that are NaN or infinite, by the tensor's name in the file.
    """

    def read(index: Index) -> np.ndarray:
        return read_slice(leaf, arrays, index, not_finite)

    if mesh is None:
        return jax.block_until_ready(jax.device_put(read(tuple(slice(None) for _ in leaf.shape))))
    return _place(read, leaf.shape, parameter_sharding(mesh, leaf.axes, leaf.shape))


def read_slice(
    leaf: Leaf, arrays: Arrays, index: Index, not_finite: Counter[str] | None = None
) -> np.ndarray:
    """float32 values of this part of the stacked and padded parameter; no other part is read or held."""
    bounds = [part.indices(size) for part, size in zip(index, leaf.shape, strict=True)]
    target = _empty([stop - start for start, stop, _ in bounds])
    stacked = leaf.shape[: leaf.num_stacked]
    for here in np.ndindex(target.shape[: leaf.num_stacked]):
        entry = [start + offset for (start, _, _), offset in zip(bounds, here, strict=False)]
        place = leaf.places[int(np.ravel_multi_index(entry, stacked)) if entry else 0]
        stored = from_stored(place.stored, arrays[place.name], place.shape)
        part = target[here]
        _fill(part, stored[index[leaf.num_stacked :]])
        if not_finite is not None and (count := _count_not_finite(part)):
            not_finite[place.name] += count
    return target


def _count_not_finite(values: np.ndarray) -> int:
    """Number of NaNs and infinities. The sum is NaN or infinite if any value is: a cheap first test."""
    with np.errstate(all="ignore"):
        if np.isfinite(values.sum()):
            return 0
    return values.size - int(np.isfinite(values).sum())


def fresh_leaves(
    config: ModelConfig, leaves: Sequence[Leaf], key: jax.Array, mesh: Mesh | None
) -> dict[LeafPath, jax.Array]:
    """Newly drawn values of these parameters, as `init_params` gives them; no others are computed."""

    def draw(key: jax.Array) -> list[jax.Array]:
        flat = flatten(init_params(config, key))
        return [flat[leaf.path] for leaf in leaves]

    shardings = None
    if mesh is not None:
        shardings = [parameter_sharding(mesh, leaf.axes, leaf.shape) for leaf in leaves]
    drawn = jax.jit(draw, out_shardings=shardings)(key)
    return {leaf.path: value for leaf, value in zip(leaves, drawn, strict=True)}


def _empty(shape: Sequence[int]) -> np.ndarray:
    num_bytes = 4 * math.prod(shape)
    buffer = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + num_bytes].view(np.float32).reshape(shape)


def _fill(target: np.ndarray, stored: np.ndarray) -> None:
    with np.errstate(over="ignore"):  # float64 numbers beyond float32, which are counted as infinite
        _copy(target, stored)


def _copy(target: np.ndarray, stored: np.ndarray) -> None:
    if target.shape == stored.shape:
        return copy_blocked(target, stored)
    # Only the vocabulary, a first dimension, is longer here than in a file; its padding is zero.
    copy_blocked(target[: len(stored)], stored)
    target[len(stored) :] = 0


def _place(read: Callable[[Index], np.ndarray], shape: tuple[int, ...], sharding: NamedSharding) -> jax.Array:
    holders: dict[tuple, tuple[Index, list[Any]]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None
        key = tuple(part.indices(size) for part, size in zip(index, shape, strict=True))
        holders.setdefault(key, (index, []))[1].append(device)
    pieces = []
    for index, devices in holders.values():
        values = read(index)
        pieces += jax.block_until_ready([jax.device_put(values, device) for device in devices])
    return jax.make_array_from_single_device_arrays(shape, sharding, pieces)
