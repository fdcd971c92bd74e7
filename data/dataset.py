"""A prepared dataset: a directory of shards, a tokenizer and a manifest that is written last."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flaxmill.data.held_out import Split
from flaxmill.data.packing import packed_format
from flaxmill.data.pairs import pair_format
from flaxmill.data.records import RecordFormat
from flaxmill.data.shards import Shard, ShardReader
from flaxmill.data.tokenization import Tokenizer

Layout = Literal["packed", "pairs"]

# Raise it when stored bytes change for the same settings: older datasets are then prepared again.
FORMAT_VERSION = 1
MANIFEST = "dataset.json"
TOKENIZER = "tokenizer.json"


class DamagedDatasetError(ValueError):
    """A directory that has a manifest but not what the manifest promises."""


class Dataset:
    """Random access to a prepared dataset. Files are opened when rows are first read.

    statistics: {"train" and "valid": {num_documents, num_tokens, num_bytes, num_rows}}, for "valid" also
    unigram_entropy and bigram_entropy (nats a token); for pairs rows_per_copy, and nsp_majority for "valid".
    num_tokens counts packed tokens with their end tokens, which are targets as well, and of pairs the
    text's tokens without [CLS] and [SEP], which never are; the entropies are those of the same tokens.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any]):
        self.directory = directory
        self.fingerprint: str = manifest["fingerprint"]
        self.layout: Layout = manifest["layout"]
        self.sequence_length: int = manifest["sequence_length"]
        self.vocab_size: int = manifest["vocab_size"]
        self.statistics: dict[str, dict[str, Any]] = manifest["statistics"]
        self.tokenizer = Tokenizer.load(directory / TOKENIZER)
        self._format = record_format(self.layout, self.sequence_length, self.vocab_size)
        self._readers = {
            split: ShardReader(directory, [Shard(*shard) for shard in shards])
            for split, shards in manifest["shards"].items()
        }

    def read(self, split: Split, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The stored rows with these numbers, in this order, as {field: [rows, ...]}."""
        return self._format.decode(self._readers[split].read(rows))

    def close(self) -> None:
        """Closes the files; they open again at the next read."""
        for reader in self._readers.values():
            reader.close()


def record_format(layout: Layout, sequence_length: int, vocab_size: int) -> RecordFormat:
    """How a dataset's rows are stored: tokens take two bytes where the vocabulary allows it."""
    token_dtype = "uint16" if vocab_size <= 1 << 16 else "int32"
    make_format = packed_format if layout == "packed" else pair_format
    return make_format(sequence_length, token_dtype)


def open_dataset(directory: str | Path) -> Dataset:
    """Opens a prepared directory.

    Raises ValueError where it is not a dataset, was not finished, or was written in another format, and
    DamagedDatasetError where files are missing, cut short or changed.
    """
    directory = Path(directory)
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{directory} is no prepared dataset (it has no {MANIFEST}); prepare it again"
        ) from None
    except (OSError, ValueError) as error:
        raise DamagedDatasetError(
            f"{directory / MANIFEST} cannot be read ({error}); prepare it again"
        ) from None
    if manifest.get("format_version") != FORMAT_VERSION:
        raise DamagedDatasetError(
            f"{directory} has format {manifest.get('format_version')}, this version reads {FORMAT_VERSION}; "
            "prepare it again"
        )
    _check_files(directory, manifest)
    return Dataset(directory, manifest)


def hash_file(path: Path) -> str:
    """SHA-256 of a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check_files(directory: Path, manifest: Mapping[str, Any]) -> None:
    shards = (Shard(*shard) for its_shards in manifest["shards"].values() for shard in its_shards)
    for shard in shards:
        path = directory / shard.file
        size = path.stat().st_size if path.is_file() else None
        if size != shard.num_bytes:
            raise DamagedDatasetError(
                f"{path} has {size} bytes, its dataset says {shard.num_bytes}; prepare it again"
            )
    path = directory / TOKENIZER
    if not path.is_file() or hash_file(path) != manifest["tokenizer_sha256"]:
        raise DamagedDatasetError(f"{path} is missing or changed; prepare the dataset again")
