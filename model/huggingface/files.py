"""Maps files of tensors without copying: safetensors, one or shards with an index, and old .bin files."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from flaxmill.model.config_json.files import parse_object, read_json
from flaxmill.model.config_json.settings import shown
from flaxmill.model.huggingface.pickles import read_pickled
from flaxmill.model.huggingface.prefixes import without_wrappers

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LEGACY, LEGACY_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

Arrays = dict[str, np.ndarray]

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
}  # fmt: skip


def read_weights(directory: str | os.PathLike) -> Arrays:
    """Every tensor in a model's directory by its name, mapped: bytes are read when they are used.

    Prefixes that torch's wrappers put before the names are removed.

    Raises:
      ValueError: there are no weights, a file is torn or missing, or a .bin file needs torch.
    """
    directory = Path(directory)
    readers = {
        SINGLE: _read_safetensors,
        INDEX: functools.partial(_read_shards, read=_read_safetensors),
        LEGACY: read_pickled,
        LEGACY_INDEX: functools.partial(_read_shards, read=read_pickled),
    }
    for name, read in readers.items():
        if (directory / name).is_file():
            return without_wrappers(read(directory / name), str(directory / name))
    raise ValueError(f"{str(directory)!r} holds no weights; it needs {SINGLE}, {INDEX} or {LEGACY}")


def tensor_names(directory: str | os.PathLike) -> frozenset[str]:
    """Names in the safetensors files of a directory; empty where there are none."""
    directory = Path(directory)
    has_names = (directory / SINGLE).is_file() or (directory / INDEX).is_file()
    return frozenset(read_weights(directory)) if has_names else frozenset()


def _read_shards(index: Path, read: Callable[[Path], Arrays]) -> Arrays:
    file_of = _weight_map(index)
    files = sorted(set(file_of.values()))
    if missing := [name for name in files if not (index.parent / name).is_file()]:
        raise ValueError(
            f"{str(index)!r} names {len(missing)} of {len(files)} files that are not there: "
            f"{', '.join(missing[:8])}; copy them too"
        )
    arrays: Arrays = {}
    for name in files:
        found = read(index.parent / name)
        if twice := sorted(arrays.keys() & found):
            raise ValueError(f"{str(index)!r} names files that both hold {twice[0]!r}; copy them again")
        arrays |= found
    if absent := sorted(set(file_of) - set(arrays)):
        raise ValueError(
            f"{str(index)!r} names {absent[0]!r}, which {file_of[absent[0]]} lacks; copy both again"
        )
    return arrays


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, in the same directory; it may be a link to elsewhere, as in caches."""
    file_of = read_json(index).get("weight_map")
    if not isinstance(file_of, dict) or not file_of:
        raise ValueError(
            f"{str(index)!r} has no weight_map, which names the file of each tensor; copy it again"
        )
    for tensor, file in file_of.items():
        if not isinstance(file, str) or file in ("", ".", "..") or set(file) & set("/\\\0") or _is_long(file):
            raise ValueError(
                f"{str(index)!r} says that {tensor!r} is in {shown(file)}, which is not a file of the same "
                "directory; give the directory as it was saved or downloaded"
            )
    return file_of


def _is_long(name: str) -> bool:
    """Whether the name is longer than a file's name may be."""
    return len(name.encode()) > 255


def _read_safetensors(path: Path) -> Arrays:
    try:
        with safe_open(path, framework="numpy"):
            pass  # it checks that header and offsets are sound and cover the file
    except (SafetensorError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{str(path)!r} is torn or not a safetensors file ({reason}); copy it again"
        ) from None
    # safe_open itself copies each tensor that it is asked for; a view of the mapped file copies nothing.
    content = np.memmap(path, np.uint8, "r").view(np.ndarray)
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = parse_object(content[8:start].tobytes(), path)
    header.pop("__metadata__", None)
    return {name: _view(content[start:], name, entry, path) for name, entry in header.items()}


def _view(data: np.ndarray, name: str, entry: dict[str, Any], path: Path) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{str(path)!r} keeps {name} as {entry['dtype']}; give a file of float tensors")
    begin, end = entry["data_offsets"]
    return data[begin:end].view(jnp.dtype(_DTYPES[entry["dtype"]])).reshape(entry["shape"])
