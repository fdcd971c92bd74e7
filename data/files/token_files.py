"""Files of token ids, read block by block: .bin of nanoGPT and llm.c, Megatron's .bin and .idx, .npy."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import IO, NamedTuple

import numpy as np

from flaxmill.data.files.archives import open_raw
from flaxmill.data.files.remote_paths import RemotePath, look_again

TOKEN_SUFFIXES = (".bin", ".idx", ".npy")
"""The suffixes of files of token ids."""

_TOKENS_AT_ONCE = 1 << 20
_DOCUMENTS_AT_ONCE = 1 << 14
# Megatron-LM's index: this mark, a version, the code of the ids' type, how many sequences and documents.
_INDEX_MARK = b"MMIDIDX\x00\x00"
_INDEX_HEADER = np.dtype([("version", "<u8"), ("code", "u1"), ("sequences", "<u8"), ("documents", "<u8")])
_INDEX_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
# llm.c's header of 256 numbers: (mark, version) and the type of the ids that follow.
_MARKED_HEADER_BYTES = 1024
_MARKED_TYPES = {(20240520, 1): "<u2", (20240801, 7): "<u4"}


class _Index(NamedTuple):
    """Where the parts of an index are in its file, in bytes, and what it says of the .bin beside it."""

    dtype: np.dtype
    num_sequences: int
    num_documents: int

    @property
    def lengths(self) -> int:
        return len(_INDEX_MARK) + _INDEX_HEADER.itemsize

    @property
    def pointers(self) -> int:
        return self.lengths + 4 * self.num_sequences

    @property
    def documents(self) -> int:
        return self.pointers + 8 * self.num_sequences


def find_index(path: PurePath) -> PurePath | None:
    """The index beside a .bin; None where there is none."""
    index = path.with_suffix(".idx")
    if isinstance(index, RemotePath):
        return index if look_again(index) else None
    return index if os.path.isfile(index) else None


def data_file(path: Path) -> Path:
    """The .bin that an index belongs to; any other path as it is."""
    return path.with_suffix(".bin") if path.suffix.lower() == ".idx" else path


def read_documents(path: PurePath, index: PurePath) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the document, its ids) for each document of Megatron's pair of files.

    Raises ValueError where the index is not one, or points beyond its .bin.
    """
    try:
        with open_raw(index) as index_file, open_raw(path) as file:
            found = _read_index(index_file, index)
            size = file.seek(0, os.SEEK_END)
            for start in range(0, found.num_documents, _DOCUMENTS_AT_ONCE):
                stop = min(start + _DOCUMENTS_AT_ONCE, found.num_documents)
                places = _read_places(index_file, found, start, stop, size, index)
                for number, ranges in enumerate(places, start=start + 1):
                    yield number, _join(_read(file, begin, length, found.dtype) for begin, length in ranges)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); check it") from None


def read_blocks(path: PurePath, raw_dtype: str) -> Iterator[np.ndarray]:
    """The ids of a raw .bin or of a .npy, a million at a time.

    Args:
      raw_dtype: the type of a .bin's ids; a .npy says it itself.
    """
    try:
        with open_raw(path) as file:
            is_array = path.suffix.lower() == ".npy"
            dtype, start, num_tokens = _open_npy(file, path) if is_array else _open_raw(file, path, raw_dtype)
            for first in range(0, num_tokens, _TOKENS_AT_ONCE):
                count = min(_TOKENS_AT_ONCE, num_tokens - first)
                yield _read(file, start + first * dtype.itemsize, count, dtype)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); check it") from None


def _open_raw(file: IO[bytes], path: PurePath, raw_dtype: str) -> tuple[np.dtype, int, int]:
    if (found := _read_marked_header(file, path)) is not None:
        return found
    dtype = np.dtype(raw_dtype).newbyteorder("<")
    size = file.seek(0, os.SEEK_END)
    if size % dtype.itemsize:
        raise ValueError(
            f"{path} has {size} bytes, which is no number of ids of data.token_dtype={raw_dtype}; "
            "correct the type, or get the file again"
        )
    return dtype, 0, size // dtype.itemsize


def _read_marked_header(file: IO[bytes], path: PurePath) -> tuple[np.dtype, int, int] | None:
    """The type, place and number of the ids of a .bin that llm.c wrote; None for any other.

    Raises ValueError where the file has another length than its header tells.
    """
    head = file.read(_MARKED_HEADER_BYTES)
    if len(head) < _MARKED_HEADER_BYTES:
        return None
    mark, version, num_tokens = np.frombuffer(head, "<i4", count=3).tolist()
    if (mark, version) not in _MARKED_TYPES:
        return None
    dtype = np.dtype(_MARKED_TYPES[mark, version])
    size = file.seek(0, os.SEEK_END) - _MARKED_HEADER_BYTES
    if size != num_tokens * dtype.itemsize:
        raise ValueError(
            f"{path} has {size} bytes of ids, and its header tells of {num_tokens:,} ids of {dtype.itemsize} "
            "bytes; get it again"
        )
    return dtype, _MARKED_HEADER_BYTES, num_tokens


def _open_npy(file: IO[bytes], path: PurePath) -> tuple[np.dtype, int, int]:
    """The type, place and number of the ids of a .npy; nothing of it is executed."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        with warnings.catch_warnings(action="ignore"):  # about the spelling of old headers
            shape, _, dtype = read_header[version](file)
    except OSError:
        raise
    except Exception as error:  # it parses Python, whose errors are of many kinds
        reason = " ".join(str(error).split())[:100]
        raise ValueError(f"{path} is not a .npy file ({reason}); write it with numpy.save") from None
    if len(shape) != 1 or dtype.kind not in "iu":
        kind = f"{dtype} of shape {'x'.join(map(str, shape)) or '()'}"
        raise ValueError(f"{path} holds {kind}, and token ids are integers in one row; flatten or convert it")
    start = file.tell()
    if file.seek(0, os.SEEK_END) - start != shape[0] * dtype.itemsize:
        raise ValueError(f"{path} is cut short: its header tells of {shape[0]:,} ids; get it again")
    return dtype, start, shape[0]


def _read_index(file: IO[bytes], path: PurePath) -> _Index:
    head = file.read(len(_INDEX_MARK) + _INDEX_HEADER.itemsize)
    is_index = head.startswith(_INDEX_MARK) and len(head) == len(_INDEX_MARK) + _INDEX_HEADER.itemsize
    if not is_index:
        raise ValueError(
            f"{path} is not an index that Megatron-LM writes (MMIDIDX); remove it to have its .bin read alone"
        )
    (header,) = np.frombuffer(head, _INDEX_HEADER, offset=len(_INDEX_MARK))
    version, code = int(header["version"]), int(header["code"])
    if version != 1 or code not in _INDEX_TYPES:
        raise ValueError(
            f"{path} has version {version} and a type of ids with the code {code}; version 1 with integers "
            "is read: write it again with Megatron-LM's preprocess_data.py"
        )
    # Documents are told by their first sequences and, at last, by the number of sequences.
    num_documents = int(header["documents"]) - 1
    found = _Index(np.dtype(_INDEX_TYPES[code]), int(header["sequences"]), num_documents)
    if file.seek(0, os.SEEK_END) < found.documents + 8 * int(header["documents"]):
        raise ValueError(f"{path} is cut short; get it again")
    return found


def _read_places(
    file: IO[bytes], index: _Index, start: int, stop: int, size: int, path: PurePath
) -> Iterator[list[tuple[int, int]]]:
    """(first byte, number of ids) of the runs of ids of each document from `start` to before `stop`."""
    firsts = _read(file, index.documents + 8 * start, stop - start + 1, np.dtype("<i8"))
    low, high = int(firsts[0]), int(firsts[-1])
    if (np.diff(firsts) < 0).any() or low < 0 or high > index.num_sequences:
        raise ValueError(f"{path} is damaged: its documents are not in order; write it again")
    lengths = _read(file, index.lengths + 4 * low, high - low, np.dtype("<i4")).astype(np.int64)
    pointers = _read(file, index.pointers + 8 * low, high - low, np.dtype("<i8"))
    ends = pointers + lengths * index.dtype.itemsize
    if (lengths < 0).any() or (pointers < 0).any() or (ends > size).any():
        raise ValueError(f"{path} points beyond the end of its .bin; get both again")
    for first, last in zip(firsts[:-1] - low, firsts[1:] - low, strict=True):
        runs: list[tuple[int, int]] = []
        for number in range(first, last):
            begin, length = int(pointers[number]), int(lengths[number])
            if runs and runs[-1][0] + runs[-1][1] * index.dtype.itemsize == begin:
                runs[-1] = (runs[-1][0], runs[-1][1] + length)
            else:
                runs.append((begin, length))
        yield runs


def _read(file: IO[bytes], start: int, count: int, dtype: np.dtype) -> np.ndarray:
    file.seek(start)
    data = file.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise OSError("it became shorter")
    return np.frombuffer(data, dtype)


def _join(parts: Iterator[np.ndarray]) -> np.ndarray:
    runs = list(parts)
    return runs[0] if len(runs) == 1 else np.concatenate([np.zeros(0, np.int64), *runs])
