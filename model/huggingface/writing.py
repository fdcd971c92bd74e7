"""Writes a model's directory: tensors streamed into safetensors, and no file visible before all are whole."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from flaxmill.model.families.stored_tensors import copy_blocked
from flaxmill.model.huggingface.files import INDEX, LEGACY, LEGACY_INDEX, SINGLE

MAX_SHARD_BYTES = 5_000_000_000
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "vocab.txt", "vocab.json", "merges.txt"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
"""Files of a tokenizer in a model's directory."""


class PartialFiles:
    """Files of one directory under temporary names, until `commit` gives them their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._is_new = False
        self._temporary: dict[str, Path] = {}

    def __enter__(self) -> "PartialFiles":
        self._is_new = not self._directory.exists()
        self._directory.mkdir(parents=True, exist_ok=True)
        for leftover in self._directory.glob(".*.partial"):  # left by an export that was killed
            leftover.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._temporary.values():
            path.unlink(missing_ok=True)
        if self._is_new:
            with contextlib.suppress(OSError):  # it is not empty, unless writing failed
                self._directory.rmdir()

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write to, on the disk when the block ends."""
        path = self._temporary[name] = self._directory / f".{name}.{os.getpid()}.partial"
        with path.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def write_text(self, name: str, text: str) -> None:
        with self.open(name) as file:
            file.write(text.encode())

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        self.write_text(name, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    def commit(self) -> None:
        """Replace the model, or the adapters, that the directory held.

        The config is removed first and written last: without it there is no model.
        """
        configs = ("config.json", ADAPTER_CONFIG)
        for name in configs:
            (self._directory / name).unlink(missing_ok=True)
        names = (SINGLE, INDEX, LEGACY, LEGACY_INDEX, ADAPTER_WEIGHTS, "generation_config.json")
        # Files of another tokenizer, left beside the new one, would still be read.
        names += TOKENIZER_FILES if "tokenizer.json" in self._temporary else ()
        stale = [self._directory / name for name in names]
        for path in (*stale, *self._directory.glob("model-*-of-*.safetensors")):
            path.unlink(missing_ok=True)
        for name in sorted(self._temporary, key=configs.__contains__):
            os.replace(self._temporary[name], self._directory / name)


def write_weights(
    files: PartialFiles,
    shapes: Mapping[str, Sequence[int]],
    tensors: Iterator[tuple[str, np.ndarray]],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write float32 safetensors: one file, or shards of at most so many bytes (or one tensor) and an index.

    Args:
      shapes: the shape of every tensor, in the order in which `tensors` yields them.
    """
    shards = _split(shapes, max_shard_bytes)
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(shard, name)
        with files.open(name) as file:
            file.write(_header(shard))
            for expected in shard:
                found, tensor = next(tensors)
                assert (found, tensor.shape) == (expected, tuple(shapes[expected])), (found, expected)
                file.write(_contiguous(tensor).data)
    if len(shards) > 1:
        total = sum(_num_bytes(shape) for shape in shapes.values())
        files.write_json(INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _split(shapes: Mapping[str, Sequence[int]], max_bytes: int) -> list[dict[str, Sequence[int]]]:
    shards: list[dict[str, Sequence[int]]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        filled += _num_bytes(shape)
        if filled > max_bytes and shards[-1]:
            shards.append({})
            filled = _num_bytes(shape)
        shards[-1][name] = shape
    return shards


def _header(shapes: Mapping[str, Sequence[int]]) -> bytes:
    """Length and JSON that open a safetensors file; padded, so that the numbers after it are aligned."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + _num_bytes(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _contiguous(tensor: np.ndarray) -> np.ndarray:
    if tensor.dtype == np.dtype("<f4") and tensor.flags.c_contiguous:
        return tensor
    contiguous = np.empty(tensor.shape, "<f4")
    copy_blocked(contiguous, tensor)
    return contiguous


def _num_bytes(shape: Sequence[int]) -> int:
    return 4 * math.prod(shape)
