"""Draws which documents are held out of training; at least one always is."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np

from flaxmill.data.config import DataConfig, EmbeddedText
from flaxmill.data.draws import HELD_OUT, uniform
from flaxmill.data.files.bad_rows import SkippedRows
from flaxmill.data.files.sources import InputSource, InputSources, Log
from flaxmill.data.text.corpora import text_sources
from flaxmill.data.text.documents import Document
from flaxmill.data.text.embedded_corpus import embedded_corpus
from flaxmill.data.text.overlap import leave_out_copies, leave_out_held_out, may_hold_copies

Split = Literal["train", "valid"]
Item = TypeVar("Item")

# Two on each side, so that a random second sentence can come from another document.
_LEAST = 2
# A draw of its own for each example takes longer than reading it.
_DRAWS_AT_ONCE = 4096


class Stream(NamedTuple):
    """Sources whose documents belong to one split; None: `draw_held_out` tells which are held out."""

    split: Split | None
    sources: InputSources


class SplitCorpus(NamedTuple):
    """A corpus and its held-out part; `documents` streams (split, document) in a fixed order, and `check`
    reads the first document of each source.

    streams: the same documents in the same order by their sources, which may be read apart.
    skipped: the bad rows of each field's sources, as far as they were read, where these are skipped.
    """

    name: str
    inventory: dict[str, list]
    num_bytes: int
    documents: Callable[[], Iterator[tuple[Split, Document]]]
    check: Callable[[], None] = lambda: None
    streams: Callable[[], tuple[Stream, ...]] = tuple
    skipped: Mapping[Split, SkippedRows] = MappingProxyType({})


class SplitSources(NamedTuple):
    """Training sources that share nothing with the held-out ones, if these are named.

    Files are compared by what they hold when `train` is first called: an existing dataset needs no reading.
    """

    name: str
    inventory: dict[str, list]
    num_bytes: int
    train: Callable[[], InputSources]
    valid: InputSources | None


def say_nothing(line: str) -> None:
    """A log for callers that only read."""


def split_sources(train: InputSources, valid: InputSources | None, log: Log) -> SplitSources:
    """Raises ValueError where data.valid_files leaves nothing to train on; for copies, once they are read."""
    inventory: dict[str, list] = {"files": train.inventory}
    if valid is not None:
        train = leave_out_held_out(train, valid, log)
        inventory = {"files": train.inventory, "valid_files": valid.inventory}
        if may_hold_copies(train, valid):
            inventory["copies"] = [["left out"]]
    num_bytes = train.num_bytes + (0 if valid is None else valid.num_bytes)
    distinct = functools.cache(lambda: leave_out_copies(train, valid, log))
    return SplitSources(train.name, inventory, num_bytes, distinct, valid)


def split_corpus(
    config: DataConfig, log: Log = say_nothing, *, takes_ids: bool = True, are_conversations: bool = False
) -> SplitCorpus:
    """The config's documents with their splits. Raises ValueError for missing files; empty
    files raise it when they are streamed.

    Args:
      takes_ids: rows can be made of documents that were tokenized before.
      are_conversations: rows hold conversations instead of text.
    """
    kind = dict(takes_ids=takes_ids, are_conversations=are_conversations)
    find = functools.partial(text_sources, config, log=log, **kind)
    train = find(config.files, "data.files") if config.files else embedded_corpus(_text_part(config))
    valid = None
    if config.valid_files:
        valid = find(config.valid_files, "data.valid_files", is_training=False)
    named = split_sources(train, valid, log)
    by_split: dict[Split, SkippedRows | None] = {
        "train": train.skipped,
        "valid": None if valid is None else valid.skipped,
    }
    skipped: dict[Split, SkippedRows] = {split: rows for split, rows in by_split.items() if rows is not None}

    def stream() -> Iterator[tuple[Split, Document]]:
        if named.valid is None:
            read = lambda: _require_text(named.train())  # noqa: E731
            yield from draw_split(read, config, split_one=lambda only: _split_text(only, config))
            return
        for document in _require_text(named.train()):
            yield "train", document
        for document in _require_text(named.valid):
            yield "valid", document

    def check() -> None:
        next(stream(), None)
        for sources in (named.train(), *([named.valid] if named.valid else ())):
            next(_require_text(sources))
            for source in sources.sources:
                next(source.read(), None)

    streams = functools.partial(_streams, named, config)
    return SplitCorpus(named.name, named.inventory, named.num_bytes, stream, check, streams, skipped)


def _streams(named: SplitSources, config: DataConfig) -> tuple[Stream, ...]:
    train = named.train()
    if named.valid is not None:
        return Stream("train", train), Stream("valid", named.valid)
    first = list(itertools.islice(_require_text(train), 2))
    if len(first) > 1:
        return (Stream(None, train),)
    halves = _split_text(first[0], config)
    return tuple(Stream(split, _in_memory(named.name, document)) for split, document in halves)


def _in_memory(name: str, document: Document) -> InputSources:
    num_bytes = len(document.text) if document.ids is None else document.ids.nbytes
    source = InputSource(name, [], num_bytes, name, lambda: iter([document]))
    return InputSources(name, (source,))


def read_documents(config: DataConfig, log: Log = say_nothing) -> Iterator[Document]:
    """All documents of data.files, or of the embedded corpus, in order; none is held out."""
    if not config.files:
        yield from _require_text(embedded_corpus(_text_part(config)))
        return
    yield from _require_text(text_sources(config, config.files, "data.files", log, takes_ids=False))


def draw_split(
    read: Callable[[], Iterator[Item]],
    config: DataConfig,
    split_one: Callable[[Item], Iterator[tuple[Split, Item]]],
) -> Iterator[tuple[Split, Item]]:
    """Splits items: item n is held out if its own draw says so, so the items need not be counted.

    The draws alone tell how far to look for _LEAST items on each side. A source that ends before that is
    small, so its items can be ranked: the items with the smallest draws are held out.

    Args:
      read: starts the items again.
      split_one: splits the only item of a source with one.
    """
    count = sum(1 for _ in itertools.islice(read(), _horizon(config)))
    if count == 1:
        yield from split_one(next(read()))
        return
    is_held_out = np.zeros(0, bool)
    for number, item in enumerate(read()):
        if number % _DRAWS_AT_ONCE == 0:
            is_held_out = draw_held_out(config, count, number, number + _DRAWS_AT_ONCE)
        yield ("valid" if is_held_out[number % _DRAWS_AT_ONCE] else "train"), item


def draw_held_out(config: DataConfig, num_items: int, start: int, stop: int) -> np.ndarray:
    """Whether the items from `start` to before `stop` are held out, bool.

    Args:
      num_items: how many there are in all; where more are to come, as many as let the draws alone decide.
    """
    if num_items >= _horizon(config):
        return uniform(HELD_OUT, config.seed, np.arange(start, stop)) < config.valid_fraction
    ranked = np.argsort(uniform(HELD_OUT, config.seed, np.arange(num_items)))
    is_held_out = np.zeros(num_items, bool)
    is_held_out[ranked[: _LEAST if num_items >= 2 * _LEAST else 1]] = True
    return is_held_out[start:stop]


def _text_part(config: DataConfig) -> EmbeddedText:
    known = get_args(EmbeddedText)
    if config.embedded not in known:
        raise ValueError(
            f"data.embedded={config.embedded} holds labelled examples, and this objective learns from text; "
            f"use {', '.join(known)}"
        )
    return config.embedded  # type: ignore[return-value]  # it is one of them


def _require_text(sources: InputSources) -> Iterator[Document]:
    documents = sources.read()
    first = next(documents, None)
    if first is None:
        raise ValueError(f"{sources.name} holds no text (0 documents); give files that are not blank")
    return itertools.chain([first], documents)


def _horizon(config: DataConfig) -> int:
    return _least_items(config.valid_fraction, config.seed)


@functools.lru_cache
def _least_items(valid_fraction: float, seed: int) -> int:
    """The least number of items with at least _LEAST held out and _LEAST not."""
    draws = np.zeros(0)
    while min((draws < valid_fraction).sum(), (draws >= valid_fraction).sum()) < _LEAST:
        numbers = np.arange(max(64, 2 * len(draws)))
        draws = uniform(HELD_OUT, seed, numbers)
    held_out = draws < valid_fraction
    return 1 + max(int(np.flatnonzero(side)[_LEAST - 1]) for side in (held_out, ~held_out))


def _split_text(document: Document, config: DataConfig) -> Iterator[tuple[Split, Document]]:
    """Holds out the tail of the only document, cut at a line end or a blank if there is one."""
    if document.targets is not None:
        raise ValueError(
            f"{document.place} is the only conversation, and none is left to hold out; give more, or "
            "data.valid_files"
        )
    if document.ids is not None:
        yield from _split_ids(document, document.ids, config)
        return
    text = document.text
    wanted = len(text) - max(1, round(len(text) * config.valid_fraction))
    cuts = (text.rfind(mark, 0, wanted) + 1 for mark in ("\n", " "))
    # A mark far before the wanted place would hold out most of the text.
    place = next((cut for cut in cuts if cut > wanted // 2), wanted)
    head, tail = text[:place], text[place:]
    if not head.strip() or not tail.strip():
        raise ValueError(
            f"the corpus is one document of {len(text)} characters, too short to hold a part of it out; "
            "give more text or data.valid_files"
        )
    yield "train", document._replace(text=head)
    yield "valid", document._replace(text=tail)


def _split_ids(document: Document, ids: np.ndarray, config: DataConfig) -> Iterator[tuple[Split, Document]]:
    place = len(ids) - max(1, round(len(ids) * config.valid_fraction))
    if place < 1:
        raise ValueError(
            f"the corpus is one document of {len(ids)} token, too short to hold a part of it out; "
            "give more text or data.valid_files"
        )
    yield "train", document._replace(ids=ids[:place])
    yield "valid", document._replace(ids=ids[place:])
