"""Ends every preparation: shards get their names, and the manifest comes last."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxmill.data.prepared.dataset import TOKENIZER, hash_file
from flaxmill.data.prepared.layouts import record_format
from flaxmill.data.prepared.manifest import FORMAT_VERSION, MANIFEST, write_manifest
from flaxmill.data.prepared.shards import ShardWriter, name_shards, sync, write_tfds_metadata
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
    writers: Mapping[Split, Sequence[ShardWriter]],
    statistics: Mapping[Split, dict[str, Any]],
    labels: tuple[str, ...] | None = None,
) -> None:
    """Turns a directory of written rows into a dataset.

    Args:
      digest: hash of all texts and their splits, to which settings, labels and tokenizer are added.
      labels: the categories, where the layout has labels at all.
    """
    tokenizer.save(directory / TOKENIZER)
    tokenizer.save_settings(directory / SETTINGS_FILE)
    for its_writers in writers.values():
        for writer in its_writers:
            writer.close()
    shards = {split: name_shards(split, its_writers) for split, its_writers in writers.items()}
    layout = settings["layout"]
    format_ = record_format(settings, tokenizer.vocab_size, len(labels or ()))
    write_tfds_metadata(directory, format_, shards, f"{corpus_name}, {layout} rows prepared by flaxmill")
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
        "shards": shards,
        "shard_sha256": {
            shard.file: hash_file(directory / shard.file) for its in shards.values() for shard in its
        },
    } | ({} if labels is None else {"labels": labels})
    for path in directory.iterdir():
        sync(path)
    write_manifest(directory, manifest)
    sync(directory / MANIFEST)
    sync(directory)
