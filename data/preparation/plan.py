"""Decides where each encoded document goes, and counts what goes there; reads no text and few tokens."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from flaxmill.data.config import DataConfig
from flaxmill.data.duplicates.exact import DigestPart
from flaxmill.data.duplicates.judging import judge_duplicates, looks_for_near
from flaxmill.data.preparation.groups import Group, GroupRecord, read_record
from flaxmill.data.preparation.parts import Part, load_part, load_signatures
from flaxmill.data.preparation.work_directory import WorkDirectory
from flaxmill.data.prepared.lengths import LengthHistogram
from flaxmill.data.text.entropy import MAX_COUNTED_TOKENS, TokenSample
from flaxmill.data.text.held_out import Split, draw_held_out
from flaxmill.data.vocabulary.unknown import UnknownCount
from flaxmill.data.whole_files import write_whole

SPLITS: tuple[Split, ...] = get_args(Split)
_TRAIN, _VALID = (np.uint8(SPLITS.index(split)) for split in ("train", "valid"))
GONE = 255
"""The fate of a document that goes nowhere; any other fate is the number of its split in SPLITS."""

Place = tuple[int, int]
"""The group of a part, and its number there."""


class SplitPlan:
    """The documents of one split.

    documents_before, tokens_before: those in the parts before each part, and at the end those of all.
    cuts: the documents before each place where `tokens_per_cut` more tokens are complete.
    """

    def __init__(self, num_leading: int, tokens_per_cut: int):
        self.documents_before, self.tokens_before = [0], [0]
        self.cuts: list[int] = []
        self.num_bytes = 0
        self.sample = TokenSample()
        self.unknown = UnknownCount()
        self.lengths = LengthHistogram()
        self._leading = num_leading
        self._tokens_per_cut = self._next_cut = tokens_per_cut

    @property
    def num_documents(self) -> int:
        return self.documents_before[-1]

    @property
    def num_tokens(self) -> int:
        return self.tokens_before[-1]

    @property
    def num_leading(self) -> int:
        """The tokens before texts, which are never predicted."""
        return self.num_documents * self._leading

    def add(self, part: Part, is_ours: np.ndarray) -> None:
        """Takes a part and which of its documents are ours."""
        lengths = part.lengths[is_ours]
        self._cut(lengths)
        self.documents_before.append(self.num_documents + len(lengths))
        self.tokens_before.append(self.num_tokens + int(lengths.sum(dtype=np.int64)))
        self.num_bytes += int(part.num_bytes[is_ours].sum())
        self.lengths.add(lengths)
        self.unknown.num_pieces = self.num_tokens
        self.unknown.num_unknown += int(part.num_unknown[is_ours].sum())
        shown = part.unknown_pieces[is_ours[part.unknown_documents]]
        if self.unknown.document is None and len(shown):
            self.unknown.document = str(shown[0])

    def _cut(self, lengths: np.ndarray) -> None:
        ends = self.num_tokens + np.cumsum(lengths, dtype=np.int64)
        while len(ends) and ends[-1] >= self._next_cut:
            found = int(np.searchsorted(ends, self._next_cut))
            self.cuts.append(self.num_documents + found + 1)
            self._next_cut = int(ends[found]) + self._tokens_per_cut

    def add_sample(self, documents: Sequence[np.ndarray]) -> None:
        """Takes the tokens of documents for the sample, while it has room."""
        for tokens in documents:
            self.sample.add(tokens[self._leading :].astype(np.int32))

    def statistics(self) -> dict[str, Any]:
        return {
            "num_documents": self.num_documents,
            "num_tokens": self.num_tokens,
            "num_leading": self.num_leading,
            "num_bytes": self.num_bytes,
            "num_unknown": self.unknown.num_unknown,
            "length_histogram": self.lengths.counts,
        }


class Plan:
    """Where all documents go.

    parts: the places of all parts, in the order of their documents.
    duplicates: what was found of them in each split, as the data card shows it.
    digest: the hash of all documents and their splits.
    """

    def __init__(self, parts: Sequence[Place], splits: Mapping[Split, SplitPlan]):
        self.parts = list(parts)
        self.splits = splits
        self.duplicates: dict[Split, dict[str, int]] = {}
        self.digest = hashlib.sha256()


def make_plan(
    groups: Sequence[Group],
    work: WorkDirectory,
    config: DataConfig,
    *,
    num_leading: int,
    tokens_per_cut: int,
    has_turns: bool = False,
) -> Plan:
    """Plans all parts of all groups, and writes the fates of their documents into the work directory.

    Args:
      num_leading: the special tokens before each document, which are never predicted.
      tokens_per_cut: see `SplitPlan.cuts`.
      has_turns: documents are conversations, of which only the assistant's turns are predicted.

    Raises ValueError where all training documents are dropped as duplicates.
    """
    records = {group.number: _record(work, group) for group in groups}
    places = [(number, place) for number, record in records.items() for place in range(record.num_parts)]
    splits: dict[int, Split | None] = {group.number: group.split for group in groups}
    drawn = sum(record.num_documents for number, record in records.items() if splits[number] is None)
    plan = Plan(places, {split: SplitPlan(num_leading, tokens_per_cut) for split in SPLITS})
    draws = _Draws(config, drawn)
    digested = [_read_digests(work, place, draws, splits[place[0]]) for place in places]
    judged = judge_duplicates(digested, _signatures(work, places, config), config.duplicates)
    plan.duplicates = judged.statistics
    for place, drawn_part, is_dropped in zip(places, digested, judged.is_dropped, strict=True):
        part = load_part(work.part(*place), *set(Part._fields) - {"tokens", "sentences", "num_sentences"})
        drawn_splits = np.where(drawn_part.is_held_out, _VALID, _TRAIN)
        labelled = np.concatenate([drawn_splits[:, None], part.digests], axis=1)
        plan.digest.update(np.ascontiguousarray(labelled).tobytes())
        fates = np.where((part.lengths > 0) & ~is_dropped, drawn_splits, np.uint8(GONE))
        _write_fates(work, place, fates)
        for number, split in enumerate(SPLITS):
            plan.splits[split].add(part, fates == number)
        _sample(plan, work, place, fates, has_turns)
    return plan


def read_fates(work: WorkDirectory, place: Place) -> np.ndarray:
    """uint8, the fate of each document of a part."""
    return np.load(work.fates(*place))


def split_turns(part: Part) -> list[np.ndarray]:
    """The lengths of each document's sentences or turns."""
    return np.split(part.sentences, np.cumsum(part.num_sentences[:-1])) if len(part.lengths) else []


def split_documents(part: Part) -> list[np.ndarray]:
    """The tokens of each document."""
    return np.split(part.tokens, np.cumsum(part.lengths[:-1])) if len(part.lengths) else []


class _Draws:
    """Gives documents their splits, in order.

    Args:
      num_drawn: how many documents have no split of their own.
    """

    def __init__(self, config: DataConfig, num_drawn: int):
        self._config = config
        self._num_drawn = num_drawn
        self._start = 0

    def take(self, split: Split | None, count: int) -> np.ndarray:
        """Whether each of the next documents is held out, bool."""
        if split is not None:
            return np.full(count, split == "valid")
        stop = self._start + count
        is_held_out = draw_held_out(self._config, self._num_drawn, self._start, stop)
        self._start = stop
        return is_held_out


def _read_digests(work: WorkDirectory, place: Place, draws: _Draws, split: Split | None) -> DigestPart:
    part = load_part(work.part(*place), "digests", "lengths")
    is_held_out = draws.take(split, len(part.lengths))
    return DigestPart(part.digests[:, :8].copy(), is_held_out, part.lengths == 0)


def _signatures(work: WorkDirectory, places: Sequence[Place], config: DataConfig) -> list[np.ndarray] | None:
    if not looks_for_near(config.duplicates):
        return None
    return [load_signatures(work.part(*place)) for place in places]


def _record(work: WorkDirectory, group: Group) -> GroupRecord:
    record = read_record(work, group.number)
    assert record is not None, f"group {group.number} has no record"
    return record


def _write_fates(work: WorkDirectory, place: Place, fates: np.ndarray) -> None:
    path = work.fates(*place)
    path.parent.mkdir(exist_ok=True)
    write_whole(path, lambda partial: np.save(partial, fates))


def _sample(plan: Plan, work: WorkDirectory, place: Place, fates: np.ndarray, has_turns: bool) -> None:
    """Reads the part's tokens for the splits whose samples have room."""
    wanted = [
        (number, plan.splits[split])
        for number, split in enumerate(SPLITS)
        if plan.splits[split].sample.num_tokens < MAX_COUNTED_TOKENS and (fates == number).any()
    ]
    if not wanted:
        return
    fields = ("sentences", "num_sentences") if has_turns else ()
    part = load_part(work.part(*place), "tokens", "lengths", *fields)
    documents = _predicted(part) if has_turns else [[tokens] for tokens in split_documents(part)]
    for number, its_plan in wanted:
        for document in np.flatnonzero(fates == number):
            its_plan.add_sample(documents[document])


def _predicted(part: Part) -> list[list[np.ndarray]]:
    """The assistant's turns in each conversation."""
    documents = zip(split_documents(part), split_turns(part), strict=True)
    return [np.split(tokens, np.cumsum(lengths[:-1]))[1::2] for tokens, lengths in documents]
