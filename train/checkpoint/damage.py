"""Finds what is wrong with a checkpoint on disk: its files, then its arrays, one at a time on one device."""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxmill.data.messages import shorten
from flaxmill.train.checkpoint.digest import compute_digests
from flaxmill.train.checkpoint.manifest import DefectError, read_manifest
from flaxmill.train.checkpoint.store import COMMIT_FILE, part_of, system_failure
from flaxmill.train.plain_paths import find_strange, plain

MAX_NAMED = 3  # arrays, or defects, that one message names

_DATABASE = "manifest.ocdbt"
_TREE = "_METADATA"
_SHAPES = "array_metadatas"


class Piece(NamedTuple):
    """Bytes of a file, named relative to the checkpoint: a part of an array, and at the end the part's index.

    The index says where chunks begin in the part; it ends with its CRC-32C (zarr's sharding_indexed codec).
    """

    file: str
    start: int
    end: int
    index_size: int = 0


def load_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint at `path`.

    Raises:
      DefectError: it is missing or damaged, or something in the checkpoint is neither file nor directory.
      CheckpointError: it is of a later version.
      OSError: the system refused to read it.
    """
    if strange := find_strange(path):
        raise DefectError(f"{strange.relative_to(path)} is neither a file nor a directory")
    try:
        stored = _read_json(path, COMMIT_FILE)
    except DefectError as defect:
        raise DefectError(f"its manifest cannot be read: {defect}") from None
    return read_manifest(stored.get("custom_metadata"), str(path))


def find_damaged_files(path: Path, names: Iterable[str]) -> list[str]:
    """What is wrong with the files that hold these arrays; the arrays themselves are not read.

    Raises:
      OSError: the system refused access to them.
    """
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(part_of(name)[0], []).append(name)
    problems = []
    for part, held in parts.items():
        try:
            problems += _find_lost_pieces(path, _index(path, part, held))
        except DefectError as defect:
            problems.append(f"{defect}, without which {shorten(held, MAX_NAMED)} cannot be read")
    return problems


def find_damaged_arrays(path: Path, arrays: Mapping[str, Any]) -> list[str]:
    """Which arrays of a manifest cannot be read, or are not what was saved; memory holds one at a time.

    Raises:
      OSError: the system refused to read.
    """
    problems = []
    for name, stored in arrays.items():
        try:
            array = read_array(path, name)
        except ValueError as error:  # TensorStore raises it
            if failure := system_failure(error):
                raise failure from error
            problems.append(f"{locate(path, name)} cannot be read ({_reason(error)})")
        else:
            if _digest(array) != stored["digest"] or str(array.dtype) != stored["dtype"]:
                problems.append(f"{locate(path, name)} is not what was saved (digest differs)")
    return problems


def locate(path: Path, name: str) -> str:
    """Name an array and the file that holds it, or its part if that is not known to be one file."""
    part = part_of(name)[0]
    try:
        pieces = _index(path, part, [name])[name]
    except (DefectError, OSError):
        pieces = []
    files = list(dict.fromkeys(piece.file for piece in pieces))
    return f"{name} in {files[0] if len(files) == 1 else part}"


def join_problems(problems: list[str]) -> str:
    """The first few problems, and how many more there are."""
    return shorten(problems, MAX_NAMED, "; ")


def num_bytes(path: Path) -> int:
    """Size of all files below a directory; a file that vanishes meanwhile counts as nothing."""
    total = 0
    for folder, _, files in os.walk(path):
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(folder) / file).lstat().st_size
    return total


def _index(path: Path, part: str, names: list[str]) -> dict[str, list[Piece]]:
    """Where each array is stored, according to Orbax's database (OCDBT), which has its own checksums."""
    if not (path / part).is_dir():
        raise DefectError(f"the directory {part} is missing")
    _read_json(path, f"{part}/{_TREE}")
    for file in sorted((path / part / _SHAPES).glob("*")):
        described = _read_json(path, f"{part}/{_SHAPES}/{file.name}").get(_SHAPES, [{}])
        if not isinstance(described, list) or not all(map(_tells_shape, described)):
            raise DefectError(f"{part}/{_SHAPES}/{file.name} is unreadable")
    entries = _read_database(path, part)
    if entries is None:
        return {name: [] for name in names}
    pieces = {}
    for name in names:
        shards = dict(entries.get(part_of(name)[1], {}))
        header = shards.pop("zarr.json", None)
        if header is None:
            raise DefectError(f"{part} holds no {name}")
        num_shards, index_size = _layout(header)
        if num_shards not in (None, len(shards)):
            raise DefectError(f"{part} holds {len(shards)} of the {num_shards} parts of {name}")
        stored = [entry["indirect_value"] for entry in shards.values() if "indirect_value" in entry]
        pieces[name] = [_piece(part, location, index_size) for location in stored]
    return pieces


def _tells_shape(described: Any) -> bool:
    """Whether `described` is what Orbax notes about an array that it has stored.

    If Orbax stumbles over it, reads that have begun end in Orbax's own tracebacks.
    """
    array = described.get("array_metadata") if isinstance(described, dict) else None
    if not isinstance(array, dict) or not isinstance(array.get("param_name"), str):
        return False
    if not isinstance(array.get("ext_metadata"), dict | None):
        return False
    shapes = [array.get("write_shape"), array.get("chunk_shape")]
    return all(isinstance(shape, list) and all(type(size) is int for size in shape) for shape in shapes)


def _read_database(path: Path, part: str) -> dict[str, dict[str, Any]] | None:
    """{array: {key: entry}} of an OCDBT database; None if it has several nodes, each with 100 MB of names."""
    import tensorstore  # it comes with Orbax

    if not (path / part / _DATABASE).is_file():
        raise DefectError(f"{part}/{_DATABASE} is missing")
    file = f"{part}/{_DATABASE}"
    try:
        store = tensorstore.KvStore.open(_files(path / part)).result()
        root = tensorstore.ocdbt.dump(store).result()["versions"][-1]["root"]["location"]
        piece = _piece(part, root)
        file = piece.file
        if what := _what_is_lost(path, piece):
            raise DefectError(f"{file} {what}")
        node = tensorstore.ocdbt.dump(store, root).result()
    except (ValueError, KeyError, IndexError) as error:
        if failure := system_failure(error):
            raise failure from error
        raise DefectError(f"{file} is unreadable ({_reason(error)})") from error
    if node["height"] > 0:
        return None
    entries: dict[str, dict[str, Any]] = {}
    for entry in node["entries"]:
        array, _, key = entry["key"].decode().partition("/")
        entries.setdefault(array, {})[key] = entry
    return entries


def _files(directory: Path) -> dict[str, str]:
    """Where TensorStore reads; this is not a URL, where some characters of a name mean something else."""
    return {"driver": "file", "path": f"{plain(directory.parent) / directory.name}/"}


def _find_lost_pieces(path: Path, index: Mapping[str, list[Piece]]) -> list[str]:
    """Files that are missing, or too short for what they should hold."""
    problems: dict[str, list[str]] = {}
    for name, pieces in index.items():
        for piece in pieces:
            if what := _what_is_lost(path, piece):
                problems.setdefault(f"{piece.file} {what}", []).append(name)
    return [
        f"{what}, which loses {shorten(list(dict.fromkeys(lost)), MAX_NAMED)}"
        for what, lost in problems.items()
    ]


def _what_is_lost(path: Path, piece: Piece) -> str | None:
    """What is wrong with the file of a piece, as far as its size and the piece's index tell."""
    try:
        size = (path / piece.file).stat().st_size
        if size < piece.end:
            return f"ends at byte {size:,}" if size else "is empty"
        if not piece.index_size:
            return None
        with (path / piece.file).open("rb") as file:
            file.seek(piece.end - piece.index_size)
            index = file.read(piece.index_size)
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    is_whole = crc32c(index[:-4]) == int.from_bytes(index[-4:], "little")
    return None if is_whole else f"has changed before byte {piece.end:,}"


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum of a few bytes (RFC 3720, B.4)."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        text = (path / name).read_text(encoding="utf-8")
        content = json.loads(text)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise DefectError(f"{name} is missing") from None
    except (ValueError, RecursionError) as error:  # neither JSON nor UTF-8
        empty = (path / name).stat().st_size == 0
        raise DefectError(f"{name} is empty" if empty else f"{name} is unreadable ({error})") from None
    if not isinstance(content, dict):
        raise DefectError(f"{name} is unreadable")
    return content


def read_array(path: Path, name: str) -> np.ndarray:
    """One array of a checkpoint, by its name in the manifest, as it is on the disk."""
    import tensorstore

    part, key = part_of(name)
    database = {"driver": "ocdbt", "base": _files(path / part), "path": f"{key}/"}
    return tensorstore.open({"driver": "zarr3", "kvstore": database}).result().read().result()


def _digest(array: np.ndarray) -> int:
    if array.dtype.itemsize == 8:  # JAX would shorten it
        array = np.ascontiguousarray(array)[..., None].view(np.uint32)
    device = jax.local_devices()[0]
    # The caller may have set a job's mesh, which would refuse an array of one device.
    with jax.set_mesh(jax.make_mesh((1,), ("one",), devices=[device])):
        return compute_digests({"array": jax.device_put(array, device)})["array"]


def _layout(header: dict[str, Any]) -> tuple[int | None, int]:
    """The number of parts of a stored array, and the bytes of each part's index; None and 0: unknown."""
    try:
        described = json.loads(header["inline_value"])
        shard = described["chunk_grid"]["configuration"]["chunk_shape"]
        num_shards = _num_blocks(described["shape"], shard)
        codec = described["codecs"][0]
        if codec["name"] != "sharding_indexed":
            return num_shards, 0
        # Offset and size of each chunk, eight bytes each, and the checksum.
        return num_shards, 16 * _num_blocks(shard, codec["configuration"]["chunk_shape"]) + 4
    except (KeyError, IndexError):
        return None, 0


def _num_blocks(shape: list[int], block: list[int]) -> int:
    return math.prod(-(-size // of) for size, of in zip(shape, block, strict=True))


def _piece(part: str, location: str, index_size: int = 0) -> Piece:
    """Parse a location, such as value:ocdbt.process_0/:d/7c1e:0:4096."""
    place, start, length = location.rsplit(":", 2)
    _, base, file = place.split(":", 2)
    return Piece(f"{part}/{base}{file}", int(start), int(start) + int(length), index_size)


def _reason(error: Exception) -> str:
    """The innermost of TensorStore's nested reasons, without its specifications."""
    text = " ".join(str(error).split()).partition(" [")[0]
    return text.rpartition(": ")[2][:120]
