"""Ends every preparation: shards get their names, and the manifest comes last."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxmill.data.prepared.dataset import TOKENIZER
from flaxmill.data.prepared.layouts import record_format
from flaxmill.data.prepared.manifest import FORMAT_VERSION, MANIFEST, write_manifest
from flaxmill.data.prepared.shards import WrittenShard, hash_file, name_shards, sync
from flaxmill.data.prepared.tfds_metadata import write_tfds_metadata
from flaxmill.data.text.held_out import Split
from flaxmill.data.tokenization import Tokenizer, canonical_json
from flaxmill.data.tokenizer.settings import SETTINGS_FILE


def finish_dataset(
    directory: Path,
    *,
    corpus_name: str,
    settings: dict[str, Any],
    tokenizer: Tokenizer,
    digest: Any,
    shards: Mapping[Split, Sequence[WrittenShard]],
    statistics: Mapping[Split, dict[str, Any]],
    labels: tuple[str, ...] | None = None,
) -> None:
    """Makes a dataset of written rows in a directory that holds its tokenizer's files.

    The rows' files stay where they are as well.

    Args:
      digest: hash of all texts and their splits, to which settings, labels and tokenizer are added.
      labels: the categories, where the layout has labels at all.
    """
    named = {split: name_shards(directory, split, its_shards) for split, its_shards in shards.items()}
    layout = settings["layout"]
    format_ = record_format(settings, tokenizer.vocab_size, len(labels or ()))
    write_tfds_metadata(directory, format_, named, f"{corpus_name}, {layout} rows prepared by flaxmill")
    digest.update(json.dumps([FORMAT_VERSION, settings], sort_keys=True).encode())
    if labels is not None:
        digest.update(json.dumps(labels).encode())
    digest.update(canonical_json(tokenizer).encode())
    manifest = {
        "format_version": FORMAT_VERSION,
        "fingerprint": digest.hexdigest(),
        "layout": layout,
        "corpus": corpus_name,
        "settings": settings,
        "sequence_length": settings["sequence_length"],
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_sha256": hash_file(directory / TOKENIZER),
        "settings_sha256": hash_file(directory / SETTINGS_FILE),
        "statistics": statistics,
        "shards": named,
        "shard_sha256": {
            shard.file: written.sha256
            for split, its_shards in shards.items()
            for shard, written in zip(named[split], its_shards, strict=True)
        },
    } | ({} if labels is None else {"labels": labels})
    for path in directory.iterdir():
        sync(path)
    write_manifest(directory, manifest)
    sync(directory / MANIFEST)
    sync(directory)
