"""Where files keep a parameter and in which layout, and the way from one layout to the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flaxmill.model.params import LeafPath

_BLOCK_COLUMNS = 16  # of float32: one cache line of the target


@dataclass(frozen=True)
class Stored:
    """Where a file keeps one parameter (one layer of it where it is stacked), and in which layout."""

    name: str
    """As in the file; "{layer}" stands for the layer's number within its stack (encoder or decoder)."""
    transposed: bool = False
    """torch's Linear stores [out, in]."""
    part: int = 0
    """Which share of a fused tensor this is, along its output dimension."""
    parts: int = 1
    interleaved: bool = False
    """The parts alternate for each head: the output is [N, parts, H] (GPT-NeoX), else [parts, out]."""
    as_row: bool = False
    """A vector that the file keeps as [1, n] (Marian's bias of the logits)."""

    def in_layer(self, layer: int) -> str:
        """The tensor's name for one layer."""
        return self.name.replace("{layer}", str(layer))


TensorMap = dict[str, Stored]
"""By the parameter's "/"-joined path, in which every group of layers is called "layers"."""


def stored_shape(stored: Stored, path: LeafPath, shape: Sequence[int]) -> tuple[int, ...]:
    """Shape in the file of the (whole, if fused) tensor that holds a parameter of this shape, one layer."""
    if path[-1] in ("bias", "scale"):
        size = math.prod(shape) * stored.parts
        return (1, size) if stored.as_row else (size,)
    num_in = 2 if path[-2:] == ("out", "kernel") else 1  # attention's output contracts heads and their dims
    rows, columns = math.prod(shape[:num_in]), math.prod(shape[num_in:]) * stored.parts
    return (columns, rows) if stored.transposed else (rows, columns)


def from_stored(stored: Stored, array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A view, of our shape for one layer, of the tensor that a file holds: nothing is read yet."""
    wide = array.T if stored.transposed else array[0] if stored.as_row else array
    if stored.parts == 1:
        return wide.reshape(shape)
    if stored.interleaved:
        *inputs, heads, head_dim = shape
        return wide.reshape(*inputs, heads, stored.parts, head_dim)[..., stored.part, :]
    return wide.reshape(*wide.shape[:-1], stored.parts, -1)[..., stored.part, :].reshape(shape)


def to_stored(stored: Stored, parts: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """The tensor of this shape that a file holds, from all its parts in our shape for one layer."""
    wide_shape = tuple(shape[::-1] if stored.transposed else shape)
    if stored.interleaved:
        wide = np.stack(parts, axis=-2)
    elif len(parts) > 1:
        wide = np.concatenate([part.reshape(*wide_shape[:-1], -1) for part in parts], axis=-1)
    else:
        wide = parts[0]
    wide = wide.reshape(wide_shape)
    return wide.T if stored.transposed else wide


def copy_blocked(target: np.ndarray, source: np.ndarray) -> None:
    """Copy, and cast, as numpy does; a transposed source four times as fast.

    numpy walks the target's rows, and so loads a cache line of the source for every number; 16 columns of
    float32 at a time use the lines that they load.
    """
    if source.ndim < 2 or source.strides[-1] == source.itemsize:
        target[...] = source
        return
    for start in range(0, target.shape[-1], _BLOCK_COLUMNS):
        columns = slice(start, start + _BLOCK_COLUMNS)
        target[..., columns] = source[..., columns]
