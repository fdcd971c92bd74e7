"""Streams labelled examples through the tokenizer into the shards, statistics and manifest of a dataset."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np

from flaxmill.data.config import DataConfig, Layout
from flaxmill.data.examples.answer_rows import make_answer_encoder
from flaxmill.data.examples.corpus import ExampleCorpus, canonical_example
from flaxmill.data.examples.example import Example
from flaxmill.data.examples.labelled_rows import EncodedRows, Encoder, make_labelled_encoder
from flaxmill.data.examples.match_rows import make_match_encoder
from flaxmill.data.examples.preference_rows import make_preference_encoder
from flaxmill.data.examples.tagged_rows import make_tagged_encoder
from flaxmill.data.examples.target_rows import make_prompt_encoder, make_source_encoder
from flaxmill.data.preparation.finishing import finish_dataset
from flaxmill.data.prepared.layouts import record_format
from flaxmill.data.prepared.lengths import LengthHistogram
from flaxmill.data.prepared.shards import ShardWriter
from flaxmill.data.text.held_out import Split
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.vocabulary.unknown import UnknownCount, judge_unknown

SPLITS: tuple[Split, ...] = get_args(Split)

# Enough text to keep every core busy with tokenizing, little enough to hold the offsets of all its tokens.
_CHUNK_CHARACTERS = 1_000_000
_LOG_SECONDS = 10.0

_ENCODERS: dict[Layout, Callable[[DataConfig, Tokenizer, tuple[str, ...]], Encoder]] = {
    "labelled": make_labelled_encoder,
    "tagged": make_tagged_encoder,
    "answers": make_answer_encoder,
    "sources": make_source_encoder,
    "prompts": make_prompt_encoder,
    "preferences": make_preference_encoder,
    "matches": make_match_encoder,
}

Log = Callable[[str], None]


class _ExampleRows:
    """Writes the rows of one split, and counts what is in them while they stream by."""

    def __init__(self, writer: ShardWriter, num_labels: int, tokenizer: Tokenizer):
        self.writer = writer
        self.has_markup = False
        self.unknown = UnknownCount()
        self._tokenizer = tokenizer
        self.num_examples = self.num_tokens = self.num_bytes = self.num_cut = self.num_answered = 0
        self.lengths = np.zeros(1, np.int64)
        self.label_counts = np.zeros(num_labels, np.int64)
        self.num_without_label: int | None = None  # counted only where an example may have none
        self._numbers: list[np.ndarray] = []

    def add(self, examples: list[Example], encoded: EncodedRows) -> None:
        rows = encoded.rows
        self.writer.write(rows)
        lengths = rows["length"] + rows.get("target_length", 0)
        self.num_examples += len(examples)
        self.num_tokens += int(lengths.sum())
        self.num_bytes += sum(len(text.encode()) for example in examples for text in example.texts)
        self.num_cut += encoded.num_cut
        self.has_markup |= any(map(self._tokenizer.spells_special, _all_texts(examples)))
        self.unknown.add_rows(_all_texts(examples), rows["tokens"], lengths, self._tokenizer)
        counts = np.bincount(lengths, minlength=len(self.lengths))
        counts[: len(self.lengths)] += self.lengths
        self.lengths = counts
        self._count_labels(examples, rows)

    def _count_labels(self, examples: list[Example], rows: dict[str, np.ndarray]) -> None:
        if len(self.label_counts) and "label" in rows and rows["label"].ndim == 2:
            self.label_counts += rows["label"].sum(0).astype(np.int64)
            self.num_without_label = (self.num_without_label or 0) + int((rows["label"].sum(1) == 0).sum())
        elif len(self.label_counts):
            labels = rows["label"] if "label" in rows else rows["tags"]
            self.label_counts += np.bincount(labels[labels >= 0], minlength=len(self.label_counts))
        elif "label" in rows:
            known = [example.wanted is not None for example in examples]
            self._numbers.append(rows["label"][known].astype(np.float64))
        elif "start" in rows:
            self.num_answered += sum(bool(example.wanted) for example in examples)

    def statistics(self, layout: Layout) -> dict[str, Any]:
        found = np.flatnonzero(self.lengths)
        median = np.searchsorted(np.cumsum(self.lengths), (self.lengths.sum() + 1) // 2)
        statistics: dict[str, Any] = {
            "num_examples": self.num_examples,
            "num_rows": self.writer.num_rows,
            "num_tokens": self.num_tokens,
            "num_bytes": self.num_bytes,
            "num_cut": self.num_cut,
            "min_length": int(found[0]),
            "median_length": int(median),
            "max_length": int(found[-1]),
            "num_unknown": self.unknown.num_unknown,
            "length_histogram": LengthHistogram.of_counts(self.lengths).counts,
        }
        if self.num_without_label is not None:
            statistics["applied_counts"] = self.label_counts.tolist()
            statistics["num_without_label"] = self.num_without_label
        elif len(self.label_counts):
            statistics["label_counts"] = self.label_counts.tolist()
        elif layout == "labelled" and len(numbers := np.concatenate(self._numbers)):
            statistics |= {"label_mean": float(numbers.mean()), "label_std": float(numbers.std())}
        elif layout == "answers":
            statistics["num_answered"] = self.num_answered
        return statistics


def build_examples(
    directory: Path,
    *,
    scratch: Path,
    config: DataConfig,
    settings: dict[str, Any],
    corpus: ExampleCorpus,
    tokenizer: Tokenizer,
    labels: tuple[str, ...],
    log: Log,
) -> None:
    """Fills an empty directory with a dataset.

    Args:
      scratch: a directory for the rows until then, on the same file system.

    Raises ValueError for the first bad example.
    """
    layout: Layout = settings["layout"]
    format_ = record_format(settings, tokenizer.vocab_size, len(labels))
    rows: dict[Split, _ExampleRows] = {
        split: _ExampleRows(ShardWriter(scratch, split, format_), len(labels), tokenizer) for split in SPLITS
    }
    encode = _ENCODERS[layout](config, tokenizer, labels)
    digest = _stream(corpus, encode, rows, log)
    for split in SPLITS:
        rows[split].writer.close()
        judge_unknown(rows[split].unknown, tokenizer, f"{corpus.name}, {split}", log)
    if config.reads_markup_in_examples and any(its_rows.has_markup for its_rows in rows.values()):
        settings = settings | {"markup": True}  # version 0.1.0 read these rows differently
    finish_dataset(
        directory,
        corpus_name=corpus.name,
        settings=settings,
        tokenizer=tokenizer,
        digest=digest,
        shards={split: rows[split].writer.shards for split in SPLITS},
        statistics={split: rows[split].statistics(layout) for split in SPLITS},
        labels=labels,
    )
    for split in SPLITS:
        if num_cut := rows[split].num_cut:
            what = "need more than one row" if layout == "answers" else "are cut"
            log(
                f"{num_cut:,} of {rows[split].num_examples:,} {split} examples {what} to fit "
                f"data.sequence_length={config.sequence_length}"
            )


def _stream(corpus: ExampleCorpus, encode: Encoder, rows: dict[Split, _ExampleRows], log: Log) -> Any:
    """Sends every example to its split's rows; returns the hash of all examples and their splits."""
    digest = hashlib.sha256()
    logged = time.monotonic()
    for chunk in _chunks(corpus.examples()):
        for split, example in chunk:
            digest.update(canonical_example(split, example) + b"\n")
        for split in SPLITS:
            if examples := [example for its_split, example in chunk if its_split == split]:
                rows[split].add(examples, encode(examples, rows[split].num_examples))
        if time.monotonic() - logged > _LOG_SECONDS:
            logged = time.monotonic()
            log(f"prepared {sum(its_rows.num_examples for its_rows in rows.values()):,} examples")
    return digest


def _all_texts(examples: list[Example]) -> Iterator[str]:
    for example in examples:
        yield from example.texts
        if isinstance(example.wanted, str):
            yield example.wanted


def _chunks(examples: Iterable[tuple[Split, Example]]) -> Iterator[list[tuple[Split, Example]]]:
    chunk, size = [], 0
    for split, example in examples:
        chunk.append((split, example))
        size += sum(len(text) + 1 for text in example.texts)
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
