"""BERT's sentence pairs (create_pretraining_data.py of google-research/bert) and ALBERT's: planned and cut.

A plan names token ranges only, so that planning is cheap and a row is a few copies.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from flaxmill.data.config import PairTask
from flaxmill.data.draws import PAIR_PLAN, make_draw

# Random second sentences come from this many neighbouring documents (up to twice as many at the end of the
# corpus), since drawing from the whole of a large corpus would need it in memory.
WINDOW_DOCUMENTS = 2048

_TWO_TO_64 = float(1 << 64)


class SentenceDocument(NamedTuple):
    """A document's number in its split, its tokens, and where its sentences end: sentence i is
    tokens[ends[i]:ends[i+1]], with ends[0] = 0."""

    number: int
    tokens: np.ndarray
    ends: list[int]


class Pair(NamedTuple):
    """Token ranges of A in its document and of B in the window's document `other`; label: whether B is
    random, or whether the two have been swapped."""

    first: tuple[int, int]
    second: tuple[int, int]
    other: int
    label: bool


def make_sentence_document(number: int, sentences: Iterable[Sequence[int]]) -> SentenceDocument:
    """Joins the ids of sentences, leaving out empty ones."""
    kept = [ids for ids in sentences if len(ids)]
    ends = [0, *np.cumsum([len(ids) for ids in kept], dtype=np.int64).tolist()]
    tokens = np.fromiter((id_ for ids in kept for id_ in ids), np.int32, count=ends[-1])
    return SentenceDocument(number, tokens, ends)


class Window:
    """Collects documents into runs of neighbours; the last run is never small, as it takes what is left."""

    def __init__(self, num_documents: int = WINDOW_DOCUMENTS):
        self._size = num_documents
        self._held: list[SentenceDocument] = []

    def add(self, document: SentenceDocument) -> list[SentenceDocument]:
        """Takes a document; returns a full run, or nothing yet."""
        self._held.append(document)
        if len(self._held) < 2 * self._size:
            return []
        full, self._held = self._held[: self._size], self._held[self._size :]
        return full

    def finish(self) -> list[SentenceDocument]:
        """The last run."""
        held, self._held = self._held, []
        return held


def cut_pairs(
    window: Sequence[SentenceDocument],
    *,
    seed: int,
    copy: int,
    sequence_length: int,
    short_pair_probability: float,
    cls_id: int,
    sep_id: int,
    task: PairTask = "next",
) -> dict[str, np.ndarray]:
    """Stored rows of one plan (number `copy`) of every document in the window."""
    max_tokens = sequence_length - 3
    plan = plan_pairs if task == "next" else plan_ordered_pairs
    planned = []
    for index, document in enumerate(window):
        draw = make_draw(PAIR_PLAN, seed, copy, document.number)
        pairs = plan(window, index, max_tokens, short_pair_probability, draw)
        planned.extend((document, pair) for pair in pairs)
    tokens = np.zeros((len(planned), sequence_length), np.int32)
    lengths = np.zeros((len(planned), 2), np.int32)
    for row, (document, pair) in enumerate(planned):
        (start, end), (other_start, other_end) = pair.first, pair.second
        middle = 1 + end - start
        last = middle + 1 + other_end - other_start
        tokens[row, 0] = cls_id
        tokens[row, 1:middle] = document.tokens[start:end]
        tokens[row, middle] = sep_id
        tokens[row, middle + 1 : last] = window[pair.other].tokens[other_start:other_end]
        tokens[row, last] = sep_id
        lengths[row] = middle + 1, last - middle
    label = np.array([pair.label for _, pair in planned], np.int32)
    return {"tokens": tokens, "first_length": lengths[:, 0], "second_length": lengths[:, 1], "label": label}


def plan_pairs(
    window: Sequence[SentenceDocument],
    index: int,
    max_tokens: int,
    short_pair_probability: float,
    draw: Callable[[], int],
) -> Iterator[Pair]:
    """The pairs of one document.

    Sentences are collected up to a target length, A takes a random number of them, and B is either the
    rest or, with probability one half, text from another document; then the unused ones are put back. A
    lone sentence has no rest, so more than half of the pairs are random. A window of one document has no
    other text: its pairs are consecutive, and a lone sentence there gives none.
    """
    ends = window[index].ends
    num_sentences = len(ends) - 1
    target = _draw_target(max_tokens, short_pair_probability, draw)
    begin = 0
    while begin < num_sentences:
        stop = begin + 1
        while stop < num_sentences and ends[stop] - ends[begin] < target:
            stop += 1
        is_lone = stop - begin == 1
        middle = begin + 1 if is_lone else begin + 1 + _below(draw, stop - begin - 1)
        is_random = len(window) > 1 and (is_lone or _uniform(draw) < 0.5)
        if is_random:
            other, second = _random_second(window, index, target - (ends[middle] - ends[begin]), draw)
            following = middle
        else:
            other, second = index, (ends[middle], ends[stop])
            following = stop
        if is_random or not is_lone:
            first, second = _truncate((ends[begin], ends[middle]), second, max_tokens, draw)
            yield Pair(first, second, other, is_random)
        begin = following


def plan_ordered_pairs(
    window: Sequence[SentenceDocument],
    index: int,
    max_tokens: int,
    short_pair_probability: float,
    draw: Callable[[], int],
) -> Iterator[Pair]:
    """The pairs of one document for sentence order (Lan et al. 2020, 3.1).

    A takes a random number of the collected sentences and B the rest; half of the pairs are swapped. Two
    sentences at least are collected, so a document of one sentence gives none, and nor does a last sentence
    that is left alone.
    """
    ends = window[index].ends
    num_sentences = len(ends) - 1
    target = _draw_target(max_tokens, short_pair_probability, draw)
    begin = 0
    while begin < num_sentences - 1:
        stop = begin + 2
        while stop < num_sentences and ends[stop] - ends[begin] < target:
            stop += 1
        middle = begin + 1 + _below(draw, stop - begin - 1)
        first, second = (ends[begin], ends[middle]), (ends[middle], ends[stop])
        is_swapped = _uniform(draw) < 0.5
        if is_swapped:
            first, second = second, first
        first, second = _truncate(first, second, max_tokens, draw)
        yield Pair(first, second, index, is_swapped)
        begin = stop


def _draw_target(max_tokens: int, short_pair_probability: float, draw: Callable[[], int]) -> int:
    """The tokens to collect for a pair: all that fit, or now and then fewer."""
    if _uniform(draw) < short_pair_probability:
        return 2 + _below(draw, max_tokens - 1)
    return max_tokens


def _random_second(
    window: Sequence[SentenceDocument], index: int, wanted: int, draw: Callable[[], int]
) -> tuple[int, tuple[int, int]]:
    """Another document and a range of its sentences, from a random one on to the wanted length."""
    other = _below(draw, len(window) - 1)
    other += other >= index
    ends = window[other].ends
    start = stop = _below(draw, len(ends) - 1)
    stop += 1
    while stop < len(ends) - 1 and ends[stop] - ends[start] < wanted:
        stop += 1
    return other, (ends[start], ends[stop])


def _truncate(
    first: tuple[int, int], second: tuple[int, int], max_tokens: int, draw: Callable[[], int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Takes single tokens off the longer range (off B on a tie), each from the front or the back."""
    lengths = first[1] - first[0], second[1] - second[0]
    excess = max(0, sum(lengths) - max_tokens)
    to_equal = min(excess, abs(lengths[0] - lengths[1]))
    cuts = [0, 0]
    cuts[0 if lengths[0] > lengths[1] else 1] = to_equal
    cuts[1] += (excess - to_equal + 1) // 2
    cuts[0] += (excess - to_equal) // 2
    return _trim(first, cuts[0], draw), _trim(second, cuts[1], draw)


def _trim(range_: tuple[int, int], num_cuts: int, draw: Callable[[], int]) -> tuple[int, int]:
    num_front = 0
    for done in range(0, num_cuts, 64):
        coins = min(64, num_cuts - done)
        num_front += (draw() >> (64 - coins)).bit_count()
    return range_[0] + num_front, range_[1] - (num_cuts - num_front)


def _uniform(draw: Callable[[], int]) -> float:
    return draw() / _TWO_TO_64


def _below(draw: Callable[[], int], limit: int) -> int:
    return (draw() * limit) >> 64


def segments_of(first_length: np.ndarray, second_length: np.ndarray, width: int) -> tuple[np.ndarray, ...]:
    """mask and segments, int32 [n,width], of stored lengths [n]: padding has segment 0."""
    places = np.arange(width)
    total = (first_length + second_length)[:, None]
    mask = places < total
    return mask.astype(np.int32), (mask & (places >= first_length[:, None])).astype(np.int32)
