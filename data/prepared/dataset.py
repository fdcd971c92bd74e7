"""A prepared dataset: a directory of shards, a tokenizer and a manifest that is written last."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxmill.data.config import Layout
from flaxmill.data.prepared.layouts import record_format
from flaxmill.data.prepared.manifest import MANIFEST, DamagedDatasetError, read_manifest
from flaxmill.data.prepared.shard_reader import ShardReader
from flaxmill.data.prepared.shards import Shard, hash_file
from flaxmill.data.text.held_out import Split
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.settings import SETTINGS_FILE

TOKENIZER = "tokenizer.json"


class Dataset:
    """Random access to a prepared dataset. Files are opened when rows are first read.

    statistics: every split has num_unknown, the pieces of its text that the tokenizer does not know, and
    length_histogram (see lengths.py); version 0.1.0 wrote neither.
    Text has {"train" and "valid": {num_documents, num_tokens, num_leading, num_bytes, num_rows}}. "valid"
    also has unigram_entropy and bigram_entropy (nats a token). Padded rows have fill, the share of their
    places that hold a token. Pairs also have rows_per_copy, and
    nsp_majority for "valid".
    num_tokens of packed rows counts the end tokens, which are targets as well, and the num_leading tokens
    before texts, such as [CLS] or LLaMA's <s>, which are never targets. num_tokens of pairs counts the text's
    tokens without [CLS] and [SEP]. The entropies are over the tokens that may be targets.

    Labelled examples have {num_examples, num_rows, num_tokens, num_bytes, num_cut, min_length, median_length,
    max_length} instead. num_cut counts the examples with a text that was cut (in question answering, the
    examples that need more than one row). Tokens and lengths count all special tokens of the rows. Labels add
    label_counts in the order of `labels`; multi_label adds applied_counts in that order instead, and
    num_without_label. Numbers add label_mean and label_std, questions add num_answered.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any]):
        self.directory = directory
        self.fingerprint: str = manifest["fingerprint"]
        self.layout: Layout = manifest["layout"]
        self.corpus: str = manifest["corpus"]
        self.sequence_length: int = manifest["sequence_length"]
        self.vocab_size: int = manifest["vocab_size"]
        # The categories in the order of their numbers; none where the layout has none.
        self.labels: tuple[str, ...] = tuple(manifest.get("labels", ()))
        self.settings: dict[str, Any] = manifest["settings"]
        self.statistics: dict[str, dict[str, Any]] = manifest["statistics"]
        # Trusted: its digest is the manifest's.
        self.tokenizer = Tokenizer.load(directory / TOKENIZER, is_trusted=True)
        if self.vocab_size != self.tokenizer.vocab_size:
            raise DamagedDatasetError(f"{directory / TOKENIZER} is not the dataset's; prepare it again")
        self._format = record_format(self.settings, self.vocab_size, len(self.labels))
        self._readers = {
            split: ShardReader(directory, [Shard(*shard) for shard in shards])
            for split, shards in manifest["shards"].items()
        }
        self._beside: dict[str, dict[str, np.ndarray]] = {}

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels, or what the labels 0 and 1 of a pair say about B."""
        if self.layout != "pairs":
            return self.labels
        is_next = self.settings.get("pair_task", "next") == "next"
        return ("what follows A", "random" if is_next else "what comes before A")

    def read(self, split: Split, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The stored rows with these numbers, in this order, as {field: [rows, ...]}.

        Raises OSError where they are damaged.
        """
        records = self._readers[split].read(rows)
        if odd := {len(record) for record in records} - {self._format.num_bytes}:
            raise OSError(
                f"{self.directory} has rows of {odd.pop()} bytes, its settings say {self._format.num_bytes}; "
                "delete it to have it prepared again"
            )
        beside = {name: values[rows] for name, values in self._beside.get(split, {}).items()}
        return self._format.decode(records) | beside

    def put_beside(self, split: Split, name: str, values: np.ndarray) -> None:
        """Have `read` give a field that is not stored: `values` [num_rows, ...] in the order of the rows."""
        num_rows = self.statistics[split]["num_rows"]
        assert len(values) == num_rows, (len(values), num_rows)
        self._beside.setdefault(split, {})[name] = values

    def close(self) -> None:
        """Closes the files; they open again at the next read."""
        for reader in self._readers.values():
            reader.close()


def open_dataset(directory: str | Path) -> Dataset:
    """Opens a prepared directory.

    Raises ValueError where it is not a dataset, was not finished, or was written in another format, and
    DamagedDatasetError where files are missing, cut short or changed.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    try:
        _check_files(directory, manifest)
        return Dataset(directory, manifest)
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedDatasetError(
            f"{directory / MANIFEST} lacks what a manifest has ({error!r}); prepare it again"
        ) from None


def _check_files(directory: Path, manifest: Mapping[str, Any]) -> None:
    shards = (Shard(*shard) for its_shards in manifest["shards"].values() for shard in its_shards)
    for shard in shards:
        path = directory / shard.file
        size = path.stat().st_size if path.is_file() else None
        if size != shard.num_bytes:
            raise DamagedDatasetError(
                f"{path} has {size} bytes, its dataset says {shard.num_bytes}; prepare it again"
            )
    # Version 0.1.0 kept no settings.
    for name, key in ((TOKENIZER, "tokenizer_sha256"), (SETTINGS_FILE, "settings_sha256")):
        path = directory / name
        if key in manifest and (not path.is_file() or hash_file(path) != manifest[key]):
            raise DamagedDatasetError(f"{path} is missing or changed; prepare the dataset again")
