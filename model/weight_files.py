"""Maps files of tensors, copying nothing: safetensors, one or shards with an index, and old .bin files."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from flaxmill.model.json_files import read_json

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

    Raises:
      ValueError: there are no weights, a file is torn or missing, or a .bin file needs torch.
    """
    directory = Path(directory)
    if (directory / SINGLE).is_file():
        return _read_safetensors(directory / SINGLE)
    if (directory / INDEX).is_file():
        return _read_shards(directory / INDEX, _read_safetensors)
    if (directory / LEGACY).is_file():
        return _read_pickled(directory / LEGACY)
    if (directory / LEGACY_INDEX).is_file():
        return _read_shards(directory / LEGACY_INDEX, _read_pickled)
    raise ValueError(f"{str(directory)!r} holds no weights; it needs {SINGLE}, {INDEX} or {LEGACY}")


def tensor_names(directory: str | os.PathLike) -> frozenset[str]:
    """Names in the safetensors files of a directory; empty where there are none."""
    directory = Path(directory)
    has_names = (directory / SINGLE).is_file() or (directory / INDEX).is_file()
    return frozenset(read_weights(directory)) if has_names else frozenset()


def _read_shards(index: Path, read: Callable[[Path], Arrays]) -> Arrays:
    names: dict[str, str] = read_json(index).get("weight_map", {})
    files = sorted(set(names.values()))
    if missing := [name for name in files if not (index.parent / name).is_file()]:
        raise ValueError(
            f"{str(index)!r} names {len(missing)} of {len(files)} files that are not there: "
            f"{', '.join(missing[:8])}; copy them too"
        )
    arrays: Arrays = {}
    for name in files:
        arrays |= read(index.parent / name)
    if absent := sorted(set(names) - set(arrays)):
        raise ValueError(
            f"{str(index)!r} names {absent[0]!r}, which {names[absent[0]]} lacks; copy both again"
        )
    return arrays


def _read_safetensors(path: Path) -> Arrays:
    try:
        with safe_open(path, framework="numpy"):
            pass  # it checks that header and offsets are sound and cover the file
    except SafetensorError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{str(path)!r} is torn or no safetensors file ({reason}); copy it again") from None
    # safe_open itself copies each tensor that it is asked for; a view of the mapped file copies nothing.
    content = np.memmap(path, np.uint8, "r").view(np.ndarray)
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    header.pop("__metadata__", None)
    return {name: _view(content[start:], name, entry, path) for name, entry in header.items()}


def _view(data: np.ndarray, name: str, entry: dict[str, Any], path: Path) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{str(path)!r} keeps {name} as {entry['dtype']}; give a file of float tensors")
    begin, end = entry["data_offsets"]
    return data[begin:end].view(jnp.dtype(_DTYPES[entry["dtype"]])).reshape(entry["shape"])


def _read_pickled(path: Path) -> Arrays:
    try:
        import torch
    except ModuleNotFoundError:
        raise ValueError(
            f"{str(path)!r} is PyTorch's old format, which only torch reads; "
            "install torch, or give a model.safetensors"
        ) from None
    try:
        # weights_only: a pickle may run any code; this loader builds tensors and nothing else.
        tensors = torch.load(path, map_location="cpu", mmap=_is_zip(path), weights_only=True)
    except Exception as error:  # torn files surface as whatever the unpickler meets first
        reason = str(error).splitlines()[0]
        raise ValueError(f"{str(path)!r} cannot be read as tensors ({reason}); copy it again") from None
    # numpy has no bfloat16 of its own: those bits travel as integers.
    return {
        name: tensor.view(torch.int16).numpy().view(jnp.dtype("bfloat16"))
        if tensor.dtype == torch.bfloat16
        else tensor.numpy()
        for name, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor)
    }


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"  # torch before 1.6 wrote files that cannot be mapped
