"""Reads documents by their place in a split, or tokens by theirs, from the parts that hold them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from flaxmill.data.conversations.encoding import join_bits, spread_turns
from flaxmill.data.preparation.parts import load_part
from flaxmill.data.preparation.plan import SPLITS, Plan, read_fates, split_documents, split_turns
from flaxmill.data.preparation.work_directory import WorkDirectory
from flaxmill.data.text.held_out import Split

_NO_BITS = np.zeros(0, bool)


class FoundDocuments(NamedTuple):
    """Neighbouring documents: the tokens of each, int32, and the lengths of its sentences if asked for."""

    tokens: list[np.ndarray]
    sentences: list[np.ndarray]


class PlannedDocuments:
    """The documents of both splits, in order. Memory holds one part at a time; workers are sent a copy.

    Args:
      joins_bits: tokens are those of conversations, and come with the bits that `join_bits` gives them.
    """

    def __init__(self, work: WorkDirectory, plan: Plan, *, joins_bits: bool = False):
        self._work = work
        self._joins_bits = joins_bits
        self._parts = plan.parts
        self._documents = {split: np.array(plan.splits[split].documents_before) for split in SPLITS}
        self._tokens = {split: np.array(plan.splits[split].tokens_before) for split in SPLITS}

    def num_tokens(self, split: Split) -> int:
        return int(self._tokens[split][-1])

    def read(
        self, split: Split, start: int, stop: int, *, with_sentences: bool = False
    ) -> Iterator[FoundDocuments]:
        """The split's documents from number `start` to before `stop`, part by part."""
        before = self._documents[split]
        for number in _overlapping(before, start, stop):
            found = self._load(number, split, with_sentences)
            first, last = max(0, start - int(before[number])), stop - int(before[number])
            yield FoundDocuments(found.tokens[first:last], found.sentences[first:last])

    def read_tokens(self, split: Split, start: int, stop: int) -> Iterator[tuple[bool, list[np.ndarray]]]:
        """The split's tokens from place `start` to before `stop`, part by part and document by document, and
        whether the first of these documents is the rest of one."""
        before = self._tokens[split]
        for number in _overlapping(before, start, stop):
            first, last = max(0, start - int(before[number])), stop - int(before[number])
            yield _slice(self._load(number, split, with_sentences=False).tokens, first, last)

    def _load(self, number: int, split: Split, with_sentences: bool) -> FoundDocuments:
        place = self._parts[number]
        fields = ("sentences", "num_sentences") if with_sentences or self._joins_bits else ()
        part = load_part(self._work.part(*place), "tokens", "lengths", *fields)
        part = part._replace(tokens=part.tokens.astype(np.int32))
        if self._joins_bits:
            is_target = [spread_turns(lengths) for lengths in split_turns(part)]
            part = part._replace(tokens=join_bits(part.tokens, np.concatenate([_NO_BITS, *is_target])))
        ours = np.flatnonzero(read_fates(self._work, place) == SPLITS.index(split)).tolist()
        documents = split_documents(part)
        sentences: list[np.ndarray] = []
        if with_sentences:
            of_each = split_turns(part)
            sentences = [of_each[document] for document in ours]
        return FoundDocuments([documents[document] for document in ours], sentences)


def _overlapping(before: np.ndarray, start: int, stop: int) -> list[int]:
    """The parts that hold a piece of the range; `before` counts what comes before each part."""
    first = int(np.searchsorted(before, start, side="right")) - 1
    numbers = range(first, int(np.searchsorted(before, stop, side="left")))
    return [number for number in numbers if before[number + 1] > before[number]]


def _slice(documents: list[np.ndarray], start: int, stop: int) -> tuple[bool, list[np.ndarray]]:
    """The tokens from `start` to before `stop`, and whether they begin inside a document."""
    ends = np.cumsum([len(tokens) for tokens in documents])
    first = int(np.searchsorted(ends, start, side="right"))
    last = min(int(np.searchsorted(ends, stop, side="left")), len(documents) - 1)
    kept = documents[first : last + 1]
    begin = start - int(ends[first]) + len(documents[first])
    kept[-1] = kept[-1][: len(kept[-1]) - max(0, int(ends[last]) - stop)]
    kept[0] = kept[0][begin:]
    return begin > 0, kept
