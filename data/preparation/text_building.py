"""Streams a corpus through the tokenizer into the shards, statistics and manifest of a dataset."""

import functools
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from flaxmill.data.config import DataConfig, Layout, PairTask
from flaxmill.data.examples.framing import document_frame, without_frame
from flaxmill.data.preparation.finishing import finish_dataset
from flaxmill.data.prepared.layouts import record_format
from flaxmill.data.prepared.lengths import LengthHistogram
from flaxmill.data.prepared.records import RecordFormat
from flaxmill.data.prepared.shards import ShardWriter
from flaxmill.data.text.documents import Document
from flaxmill.data.text.entropy import TokenSample, bigram_entropy, unigram_entropy
from flaxmill.data.text.fitted_packing import FittedPacker
from flaxmill.data.text.held_out import Split, SplitCorpus
from flaxmill.data.text.packing import Packer
from flaxmill.data.text.pairs import Window, cut_pairs, make_sentence_document
from flaxmill.data.text.sentences import cut_at_sentences, split_sentences
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.failures import encode_texts
from flaxmill.data.vocabulary.unknown import UnknownCount, judge_unknown

SPLITS: tuple[Split, ...] = get_args(Split)

# Enough text to keep every core of the tokenizer busy, little enough to be forgotten at once.
_CHUNK_CHARACTERS = 2_000_000
_LOG_SECONDS = 10.0

Log = Callable[[str], None]


class _SplitTotals:
    """Counts a split's documents, tokens and bytes while they stream by."""

    def __init__(self):
        self.num_documents = self.num_tokens = self.num_leading = self.num_bytes = 0
        self.sample = TokenSample()
        self.unknown = UnknownCount()
        self.lengths = LengthHistogram()

    def add(self, text: str, tokens: np.ndarray, unknown_id: int | None, num_leading: int = 0) -> None:
        """Counts a document. Its first `num_leading` tokens come before the text and are never predicted."""
        self.unknown.add(text, tokens, unknown_id)
        self.lengths.add([len(tokens)])
        self.num_documents += 1
        self.num_tokens += len(tokens)
        self.num_leading += num_leading
        self.num_bytes += len(text.encode())
        self.sample.add(tokens[num_leading:])


class _PackedRows:
    """Packed rows of one split."""

    def __init__(
        self, directory: Path, split: Split, format_: RecordFormat, config: DataConfig, row_length: int
    ):
        self.totals = _SplitTotals()
        self.writers = [ShardWriter(directory, split, format_)]
        fitted = config.packing != "concatenate"
        self.packer = FittedPacker(row_length, config.packing) if fitted else Packer(row_length)
        self._config = config

    def add(self, documents: list[Document], tokenizer: Tokenizer) -> None:
        """Frames each document, see `document_frame`."""
        frame = document_frame(tokenizer, self._config.framing)
        before, after = (np.array(ids, np.int32) for ids in frame)
        unread = [document for document in documents if document.ids is None]
        encode = _encoder(tokenizer, self._config)
        texts = [document.text for document in unread]
        encoded = iter(encode_texts(encode, texts, lambda number: unread[number].place))
        decoded = iter(
            _decode([document.ids for document in documents if document.ids is not None], tokenizer)
        )
        framed = []
        for document in documents:
            if document.ids is None:
                text, ids = document.text, next(encoded)
            else:
                text, ids = next(decoded), without_frame(document.ids, frame)
            if len(ids):
                framed.append(np.concatenate([before, np.asarray(ids, np.int32), after]))
                self.totals.add(text, framed[-1], tokenizer.unknown_id, len(frame.before))
        self.writers[0].write(self.packer.add(framed))

    def finish(self) -> None:
        self.writers[0].write(self.packer.finish())


class _SentenceRows(_PackedRows):
    """Packed rows of one split that end where sentences end."""

    def add(self, documents: list[Document], tokenizer: Tokenizer) -> None:
        """Frames each document, and keeps its sentences apart."""
        before, after = document_frame(tokenizer, self._config.framing)
        language, keeps_blank = self._config.sentences, _keeps_blank(tokenizer)
        texts = [cut_at_sentences(document, language, keeps_blank=keeps_blank) for document in documents]
        places = [document.place for document, pieces in zip(documents, texts, strict=True) for _ in pieces]
        flat = [text for pieces in texts for text in pieces]
        ids = iter(encode_texts(_encoder(tokenizer, self._config), flat, places.__getitem__))
        framed = []
        for document, pieces in zip(documents, texts, strict=True):
            parts = [part for part in (next(ids) for _ in pieces) if part]
            if parts:
                parts[0], parts[-1] = [*before, *parts[0]], [*parts[-1], *after]
                framed.append([np.array(part, np.int32) for part in parts])
                tokens = np.concatenate(framed[-1])
                self.totals.add(document.text, tokens, tokenizer.unknown_id, len(before))
        assert isinstance(self.packer, FittedPacker)
        self.writers[0].write(self.packer.add_parts(framed))


class _PairRows:
    """Sentence pairs of one split. Each plan has its own shards, so that a plan's rows are neighbours."""

    def __init__(
        self, directory: Path, split: Split, format_: RecordFormat, config: DataConfig, row_length: int
    ):
        self.totals = _SplitTotals()
        self._row_length = row_length
        num_copies = config.pair_copies if split == "train" else 1
        self.writers = [ShardWriter(directory, f"{split}-{copy}", format_) for copy in range(num_copies)]
        self.num_positive = 0
        self.task: PairTask = config.pair_task
        self._config = config
        self._window = Window()
        self._special_ids: tuple[int, int] = (0, 0)

    def add(self, documents: list[Document], tokenizer: Tokenizer) -> None:
        assert tokenizer.cls_id is not None
        assert tokenizer.sep_id is not None
        self._special_ids = tokenizer.cls_id, tokenizer.sep_id
        sentences = [split_sentences(document, self._config.sentences) for document in documents]
        places = [document.place for document, texts in zip(documents, sentences, strict=True) for _ in texts]
        flat = [text for texts in sentences for text in texts]
        ids = iter(encode_texts(_encoder(tokenizer, self._config), flat, places.__getitem__))
        for document, texts in zip(documents, sentences, strict=True):
            made = make_sentence_document(self.totals.num_documents, [next(ids) for _ in texts])
            if len(made.tokens):
                self.totals.add(document.text, made.tokens, tokenizer.unknown_id)
                self._cut(self._window.add(made))

    def finish(self) -> None:
        self._cut(self._window.finish())

    def _cut(self, window: list) -> None:
        cls_id, sep_id = self._special_ids
        for copy, writer in enumerate(self.writers if window else []):
            rows = cut_pairs(
                window,
                seed=self._config.seed,
                copy=copy,
                sequence_length=self._row_length,
                short_pair_probability=self._config.short_pair_probability,
                cls_id=cls_id,
                sep_id=sep_id,
                task=self.task,
            )
            self.num_positive += int(rows["label"].sum())
            writer.write(rows)


def _keeps_blank(tokenizer: Tokenizer) -> bool:
    """Whether a sentence of its own needs the blank before it to become the tokens that it is in a text; most
    tokenizers of SentencePiece put one before every text."""
    alone = tokenizer.encode("a.") + tokenizer.encode(" a")
    return alone == tokenizer.encode("a. a")


def _decode(documents: list[np.ndarray], tokenizer: Tokenizer) -> list[str]:
    """The texts of documents of ids, decoded on all cores: their bytes are what a loss per byte counts."""
    return tokenizer.inner.decode_batch([ids.tolist() for ids in documents], skip_special_tokens=True)


def _encoder(tokenizer: Tokenizer, config: DataConfig) -> Callable[[Sequence[str]], list[list[int]]]:
    return functools.partial(tokenizer.encode_batch, markup=config.reads_markup_in_text)


def build_dataset(
    directory: Path,
    *,
    config: DataConfig,
    layout: Layout,
    settings: dict[str, Any],
    corpus: SplitCorpus,
    tokenizer: Tokenizer,
    log: Log,
) -> None:
    """Fills an empty directory with a dataset; the manifest comes last. Raises ValueError on empty splits."""
    format_ = record_format(settings, tokenizer.vocab_size, num_labels=0)
    packed = _SentenceRows if config.packing == "full_sentences" else _PackedRows
    make_rows = {"packed": packed, "pairs": _PairRows}[layout]
    row_length: int = settings["sequence_length"]
    rows = {split: make_rows(directory, split, format_, config, row_length) for split in SPLITS}
    digest = _stream(corpus, tokenizer, rows, log)
    for split in SPLITS:
        rows[split].finish()
        _require_rows(corpus, split, rows[split])
        judge_unknown(rows[split].totals.unknown, tokenizer, f"{corpus.name}, {split}", log)
    finish_dataset(
        directory,
        corpus_name=corpus.name,
        settings=settings,
        tokenizer=tokenizer,
        digest=digest,
        writers={split: rows[split].writers for split in SPLITS},
        statistics=_with_skipped(_statistics(rows, tokenizer), corpus, log),
    )


def _with_skipped(
    statistics: dict[Split, dict[str, Any]], corpus: SplitCorpus, log: Log
) -> dict[Split, dict[str, Any]]:
    """Adds the number of bad rows that were skipped, and says it."""
    for split, skipped in corpus.skipped.items():
        statistics[split]["num_bad_rows"] = skipped.total
        if skipped.total:
            log(f"skipped {skipped.describe()}")
    return statistics


def _stream(corpus: SplitCorpus, tokenizer: Tokenizer, rows: dict, log: Log) -> Any:
    """Sends every document to its split's rows; returns the hash of all texts and their splits."""
    digest = hashlib.sha256()
    logged = time.monotonic()
    for chunk in _chunks(corpus.documents()):
        for split, document in chunk:
            if document.ids is None:
                kind, data = document.sentences, document.text.encode()
            else:
                kind, data = "ids", document.ids.astype("<i4").tobytes()
            digest.update(f"{split} {kind} {len(data)}\n".encode())
            digest.update(data)
        for split in SPLITS:
            if documents := [document for its_split, document in chunk if its_split == split]:
                rows[split].add(documents, tokenizer)
        if time.monotonic() - logged > _LOG_SECONDS:
            logged = time.monotonic()
            num_bytes = sum(its_rows.totals.num_bytes for its_rows in rows.values())
            log(f"prepared {num_bytes / 1e6:,.0f} of about {corpus.num_bytes / 1e6:,.0f} MB")
    return digest


def _chunks(documents: Iterable[tuple[Split, Document]]) -> Iterator[list[tuple[Split, Document]]]:
    chunk, size = [], 0
    for split, document in documents:
        chunk.append((split, document))
        size += len(document.text) if document.ids is None else document.ids.nbytes
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _require_rows(corpus: SplitCorpus, split: Split, rows: _PackedRows | _PairRows) -> None:
    totals = rows.totals
    is_random = isinstance(rows, _PairRows) and rows.task == "next"
    if is_random and split == "train" and totals.num_documents == 1:
        raise ValueError(
            f"{corpus.name} gives 1 training document, but a random second sentence comes from another one; "
            "give more files, or data.documents=blank_lines with a blank line between documents"
        )
    if not sum(writer.num_rows for writer in rows.writers):
        raise ValueError(
            f"{corpus.name} gives no {split} rows ({totals.num_documents} documents, {totals.num_tokens} "
            f"tokens); give more {'text' if split == 'train' else 'held-out text, see data.valid_files'}"
        )


def _statistics(rows: dict, tokenizer: Tokenizer) -> dict[Split, dict[str, Any]]:
    statistics: dict[Split, dict[str, Any]] = {}
    for split, its_rows in rows.items():
        totals, rows_per_copy = its_rows.totals, [writer.num_rows for writer in its_rows.writers]
        statistics[split] = {
            "num_documents": totals.num_documents,
            "num_tokens": totals.num_tokens,
            "num_leading": totals.num_leading,
            "num_bytes": totals.num_bytes,
            "num_rows": sum(rows_per_copy),
            "num_unknown": totals.unknown.num_unknown,
            "length_histogram": totals.lengths.counts,
        }
        if isinstance(its_rows, _PairRows):
            statistics[split]["rows_per_copy"] = rows_per_copy
        elif isinstance(its_rows.packer, FittedPacker):
            statistics[split]["fill"] = its_rows.packer.fill
    valid = rows["valid"]
    statistics["valid"]["unigram_entropy"] = unigram_entropy(valid.totals.sample)
    statistics["valid"]["bigram_entropy"] = bigram_entropy(
        rows["train"].totals.sample, valid.totals.sample, tokenizer.vocab_size
    )
    if isinstance(valid, _PairRows):
        share = valid.num_positive / statistics["valid"]["num_rows"]
        statistics["valid"]["nsp_majority"] = max(share, 1.0 - share)
    return statistics
