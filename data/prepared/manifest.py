"""The manifest of a prepared dataset: written last, with a checksum, and checked when it is read."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Raise it when stored bytes change for the same settings: older datasets are then prepared again.
FORMAT_VERSION = 1
MANIFEST = "dataset.json"

_CHECKSUM = "checksum"
_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("fingerprint", "layout", "corpus"), str),
    **dict.fromkeys(("sequence_length", "vocab_size"), int),
    **dict.fromkeys(("settings", "statistics", "shards"), dict),
}


class DamagedDatasetError(ValueError):
    """A directory that has a manifest but not what the manifest promises."""


def write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Write it; `manifest` must survive JSON unchanged."""
    sealed = {**manifest, _CHECKSUM: _checksum(json.loads(json.dumps(manifest)))}
    text = json.dumps(sealed, indent=1, allow_nan=False) + "\n"
    (directory / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(directory: Path) -> dict[str, Any]:
    """What `write_manifest` wrote.

    Raises ValueError where there is none, and DamagedDatasetError where it is of another format or changed.
    """
    file = directory / MANIFEST
    try:
        if file.exists() and not file.is_file():  # a pipe or a device may never end
            raise OSError("it is not a file")
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{directory} is not a prepared dataset (it has no {MANIFEST}); prepare it again"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedDatasetError(f"{file} cannot be read ({error}); prepare it again") from None
    if not isinstance(manifest, dict):
        raise DamagedDatasetError(f"{file} is not a manifest; prepare it again")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise DamagedDatasetError(
            f"{directory} has format {manifest.get('format_version')!r:.40}, this version reads "
            f"{FORMAT_VERSION}; prepare it again"
        )
    if not _is_whole(manifest):
        raise DamagedDatasetError(f"{file} has changed since it was written; prepare it again")
    if odd := _odd_part(manifest):
        raise DamagedDatasetError(f"{file} has no valid {odd}; prepare it again")
    return manifest


def _is_whole(manifest: dict[str, Any]) -> bool:
    """Takes the checksum out and compares it with the rest; version 0.1.0 wrote none."""
    try:
        return _CHECKSUM not in manifest or manifest.pop(_CHECKSUM) == _checksum(manifest)
    except RecursionError:  # it nests deeper than JSON can be written
        return False


def _checksum(manifest: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _odd_part(manifest: Mapping[str, Any]) -> str | None:
    """The name of a part that is missing, has another type than was written, or contradicts the rest."""
    for name, kind in _KINDS.items():
        value = manifest.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            return name
    for name in ("layout", "sequence_length"):
        if manifest["settings"].get(name) != manifest[name]:
            return name
    labels = manifest.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return "labels"
    for split in ("train", "valid"):
        if not _fit(manifest["statistics"].get(split), manifest["shards"].get(split), len(labels)):
            return f"statistics or shards of {split}"
    return None


def _fit(statistics: Any, shards: Any, num_labels: int) -> bool:
    """Whether a split's statistics and shards have their form, and tell the same number of rows."""
    if not isinstance(statistics, dict) or not isinstance(shards, list):
        return False
    for name, value in statistics.items():
        numbers = value if isinstance(value, list) else [0 if value is None else value]
        if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
            return False
        if name in ("label_counts", "applied_counts") and len(numbers) != num_labels:
            return False
    return all(map(_is_shard, shards)) and statistics.get("num_rows") == sum(shard[1] for shard in shards)


def _is_shard(shard: Any) -> bool:
    """Whether it is [file in the same directory, its rows, its bytes]."""
    if not isinstance(shard, list) or len(shard) != 3 or not isinstance(shard[0], str):
        return False
    is_plain = shard[0] not in ("", ".", "..") and not set(shard[0]) & set("/\\\0")
    return is_plain and all(isinstance(number, int) and number >= 0 for number in shard[1:])
