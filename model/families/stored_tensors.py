"""Where files keep a parameter and in which layout; converts between their layout and ours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flaxmill.model.params import LeafPath

_BLOCK_COLUMNS = 16  # of float32: one cache line of the target


@dataclass(frozen=True)
class StoredTensor:
    """Where a file keeps one parameter (one layer of it where it is stacked), and in which layout."""

    name: str
    """The name in the file; "{layer}" stands for the layer's number within its stack (encoder or decoder),
    "{expert}" for an expert's number within its layer: each has a tensor."""
    transposed: bool = False
    """torch's Linear stores [out, in]."""
    part: int = 0
    """Which share of a fused tensor this is, along its output dimension."""
    parts: int = 1
    interleaved: bool = False
    """The parts alternate for each head: the output is [N, parts, H] (GPT-NeoX), else [parts, out]."""
    as_row: bool = False
    """The file keeps this vector as [1, n] (Marian's bias of the logits)."""

    @property
    def is_of_expert(self) -> bool:
        return "{expert}" in self.name

    def in_layer(self, layer: int, expert: int = 0) -> str:
        """The tensor's name for one layer, and one of its experts."""
        return self.name.replace("{layer}", str(layer)).replace("{expert}", str(expert))


TensorMap = dict[str, StoredTensor]
"""Where each parameter is stored, by its "/"-joined path; every group of layers is called "layers" there."""


def stored_shape(stored: StoredTensor, path: LeafPath, shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of the (whole, if fused) tensor in the file, for a parameter with this shape in each layer."""
    if path[-1] in ("bias", "scale"):
        size = math.prod(shape) * stored.parts
        return (1, size) if stored.as_row else (size,)
    num_in = 2 if path[-2:] == ("out", "kernel") else 1  # attention's output contracts heads and their dims
    rows, columns = math.prod(shape[:num_in]), math.prod(shape[num_in:]) * stored.parts
    return (columns, rows) if stored.transposed else (rows, columns)


def from_stored(stored: StoredTensor, array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A view of a file's tensor in our shape for one layer; nothing is read yet."""
    wide = array.T if stored.transposed else array[0] if stored.as_row else array
    if stored.parts == 1:
        return wide.reshape(shape)
    if stored.interleaved:
        *inputs, heads, head_dim = shape
        return wide.reshape(*inputs, heads, stored.parts, head_dim)[..., stored.part, :]
    return wide.reshape(*wide.shape[:-1], stored.parts, -1)[..., stored.part, :].reshape(shape)


def to_stored(stored: StoredTensor, parts: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """A file's tensor, of this shape, from all its parts in our shape for one layer."""
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
    """Copy and cast as numpy does, but a transposed source four times as fast.

    numpy walks the target's rows, and so loads a cache line of the source for every number. Copying 16
    columns of float32 at a time uses the lines that it loads.
    """
    if source.ndim < 2 or source.strides[-1] == source.itemsize:
        target[...] = source
        return
    for start in range(0, target.shape[-1], _BLOCK_COLUMNS):
        columns = slice(start, start + _BLOCK_COLUMNS)
        target[..., columns] = source[..., columns]
