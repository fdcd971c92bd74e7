"""Reads every byte of a prepared dataset, and says which shards are not what was written."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxmill.data.prepared.manifest import read_manifest
from flaxmill.data.prepared.shard_reader import ShardReader
from flaxmill.data.prepared.shards import Shard, hash_file

_ROWS_AT_ONCE = 4096


class CheckedShard(NamedTuple):
    """A shard, and what is wrong with it; None: nothing is."""

    split: str
    shard: Shard
    problem: str | None


def check_shards(directory: Path) -> Iterator[CheckedShard]:
    """Compares each shard with its size and its SHA-256 in the manifest, and reads all of its rows.

    Datasets of earlier versions have no SHA-256; ArrayRecord's own checksums tell of their rows.

    Raises ValueError where the directory is not a prepared dataset, or its manifest is damaged.
    """
    manifest = read_manifest(directory)
    digests = manifest.get("shard_sha256", {})
    for split, shards in manifest["shards"].items():
        for shard in (Shard(*values) for values in shards):
            yield CheckedShard(split, shard, _problem(directory, shard, digests.get(shard.file)))


def _problem(directory: Path, shard: Shard, digest: str | None) -> str | None:
    path = directory / shard.file
    if not path.is_file():
        return "it is gone"
    if (size := path.stat().st_size) != shard.num_bytes:
        return f"it has {size:,} bytes and not {shard.num_bytes:,}"
    if digest is not None and hash_file(path) != digest:
        return "its SHA-256 is not the manifest's"
    reader = ShardReader(directory, [shard])
    try:
        for start in range(0, shard.num_rows, _ROWS_AT_ONCE):
            reader.read(np.arange(start, min(start + _ROWS_AT_ONCE, shard.num_rows)))
    except OSError as error:
        return str(error)
    finally:
        reader.close()
    return None
