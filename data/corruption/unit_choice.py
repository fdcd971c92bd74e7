"""Chooses whole words, spans or n-grams of words in random order until a row's predictions are used up."""

from typing import NamedTuple

import numpy as np

from flaxmill.data.config import Masking
from flaxmill.data.draws import MASK_LENGTH, MASK_ORDER, bits, uniform

# n rows, T tokens of a row, W words of a row, U words of the longest unit

_SPAN_STOP, _LONGEST_SPAN = 0.2, 10  # Joshi et al. 2020, 3.1: a mean of 3.8 words
_LONGEST_NGRAM = 3  # Lan et al. 2020, 3.2


class Words(NamedTuple):
    """The words of rows, in order; `first` and `size` are 0 beyond a row's words.

    of_place [n,T]: the number of each place's word, -1 where none may be masked.
    first, size [n,W]: a word's first place, and its tokens.
    left [n,W]: the words from this one on that follow each other with nothing between, itself included.
    """

    of_place: np.ndarray
    first: np.ndarray
    size: np.ndarray
    left: np.ndarray


def find_words(may_mask: np.ndarray, joined: np.ndarray, documents: np.ndarray) -> Words:
    """The words among the places that may be masked.

    Args:
      joined: bool [n,T]: whether a token belongs to the word of the token before it.
      documents: int [n,T]: neither a word nor a unit goes from one document to another.
    """
    num_rows = len(may_mask)
    before = np.zeros_like(may_mask)
    before[:, 1:] = may_mask[:, :-1] & (documents[:, 1:] == documents[:, :-1])
    begins = may_mask & ~(joined & before)
    of_place = np.where(may_mask, np.cumsum(begins, axis=1) - 1, -1)
    num_words = max(int(of_place.max(initial=-1)) + 1, 1)

    row, place = np.nonzero(begins)
    first = np.zeros((num_rows, num_words), np.int64)
    first[row, of_place[row, place]] = place
    masked_row, masked_place = np.nonzero(may_mask)
    flat = masked_row * num_words + of_place[masked_row, masked_place]
    size = np.bincount(flat, minlength=num_rows * num_words).reshape(num_rows, num_words)

    # A run of words ends before the next word that has nothing before it.
    ends = np.broadcast_to((size > 0).sum(1)[:, None], size.shape).copy()
    opens_row, opens_place = np.nonzero(begins & ~before)
    opens = of_place[opens_row, opens_place]
    later = opens > 0
    ends[opens_row[later], opens[later] - 1] = opens[later]
    ends = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    return Words(of_place, first, size, np.maximum(ends - np.arange(num_words), 0))


def choose_units(words: Words, masking: Masking, num_wanted: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """int64 [n,T]: the first place of the chosen unit that covers each place, -1 where there is none.

    Words are taken in random order, each as the first word of a unit whose length is drawn. A unit is made
    shorter by whole words until it fits into what is left of num_wanted [n], the most tokens that are chosen
    in each row; one that cannot fit, or touches a chosen word, is passed over.
    """
    num_rows, num_words = words.size.shape
    order = _random_order(words, keys)
    lengths = _draw_lengths(words, masking, keys)
    # One place more, where what is beyond a row's end goes.
    unit_of = np.full((num_rows, num_words + 1), -1)
    left = np.array(num_wanted)
    in_row = (words.size > 0).sum(1)
    span = np.arange(int(lengths.max(initial=1)))
    active = np.arange(num_rows)
    for turn in range(num_words):
        active = active[np.logical_and(left[active] > 0, turn < in_row[active])]
        if not len(active):
            break
        word = order[active, turn]
        rows = active[:, None]
        members = np.minimum(word[:, None] + span, num_words)
        inside = span < lengths[active, word][:, None]
        sizes = np.where(inside, words.size[rows, np.minimum(members, num_words - 1)], 0)
        totals = np.cumsum(sizes, axis=1)
        inside &= totals <= left[active][:, None]
        touches = np.any(inside & (unit_of[rows, members] >= 0), axis=1, keepdims=True)
        inside &= ~touches
        row, member = np.nonzero(inside)
        unit_of[active[row], members[row, member]] = words.first[active[row], word[row]]
        left[active] -= (sizes * inside).sum(axis=1)
    of_place = np.where(words.of_place < 0, num_words, words.of_place)
    return np.take_along_axis(unit_of, of_place, axis=1)


def _random_order(words: Words, keys: np.ndarray) -> np.ndarray:
    """int64 [n,W]: the words of each row in random order, which depends on their places alone."""
    draws = bits(keys[:, None], MASK_ORDER, words.first) >> np.uint64(1)
    draws = np.where(words.size > 0, draws, np.uint64(0xFFFF_FFFF_FFFF_FFFF))
    return np.argsort(draws, axis=1, kind="stable")


def _draw_lengths(words: Words, masking: Masking, keys: np.ndarray) -> np.ndarray:
    """int64 [n,W]: the words of a unit that begins at each word; a longer one than there is room for is never
    drawn."""
    shares = np.cumsum(length_shares(masking))
    most = np.clip(words.left, 1, len(shares))
    draws = uniform(keys[:, None], MASK_LENGTH, words.first) * shares[most - 1]
    return np.minimum(1 + np.searchsorted(shares, draws, side="right"), most)


def length_shares(masking: Masking) -> np.ndarray:
    """[U]: how likely a unit is of 1, 2, ... words.

    spans: a geometric distribution without its tail (Joshi et al. 2020). ngrams: 1/n (Lan et al. 2020).
    """
    match masking:
        case "spans":
            shares = _SPAN_STOP * (1 - _SPAN_STOP) ** np.arange(_LONGEST_SPAN)
        case "ngrams":
            shares = 1 / np.arange(1, _LONGEST_NGRAM + 1)
        case _:
            shares = np.ones(1)
    return shares / shares.sum()
