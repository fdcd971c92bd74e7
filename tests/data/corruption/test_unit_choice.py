"""Whole words, spans and n-grams are chosen as BERT's, SpanBERT's and ALBERT's authors chose them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxmill.data.corruption.masking import mask_tokens, max_predictions
from flaxmill.data.corruption.unit_choice import choose_units, find_words, length_shares
from flaxmill.data.draws import MASK_ORDER, bits, uniform

VOCAB, MASK_ID = 1000, 4
UNITS = ("whole_words", "spans", "ngrams")


def rows_of_words(num_rows, width=128, seed=0, num_documents=1):
    """tokens, is_real, joined and documents: words of one to four pieces between special tokens."""
    rows, places = np.arange(num_rows)[:, None], np.arange(width)
    tokens = (5 + bits(seed, rows, places) % np.uint64(VOCAB - 5)).astype(np.int32)
    tokens[:, 0] = 2
    tokens[:, -1] = 3
    joined = uniform(seed, 1, rows, places) < 0.35
    documents = 1 + places * num_documents // width + 0 * rows
    return tokens, np.ones(tokens.shape, bool), joined, documents


def choose(num_rows, unit, seed=0, rate=0.15, **shape):
    tokens, is_real, joined, documents = rows_of_words(num_rows, **shape)
    may_mask = is_real & (tokens >= 5)
    words = find_words(may_mask, joined, documents)
    wanted = np.minimum(max_predictions(tokens.shape[1], rate), may_mask.sum(1))
    return words, choose_units(words, unit, wanted, bits(seed, np.arange(num_rows))), wanted


def mask(num_rows, unit, seed=0, rate=0.15, keys=None, rows=slice(None), **shape):
    tokens, is_real, joined, documents = rows_of_words(num_rows, **shape)
    keys = bits(seed, np.arange(num_rows)) if keys is None else keys
    return tokens, mask_tokens(
        tokens[rows],
        is_real[rows],
        np.arange(VOCAB) < 5,
        mask_rate=rate,
        mask_id=MASK_ID,
        vocab_size=VOCAB,
        keys=keys[rows],
        unit=unit,
        documents=documents[rows],
        joined=joined[rows],
    )


def test_words_have_their_first_place_their_size_and_what_follows():
    may_mask = np.array([[0, 1, 1, 1, 1, 0, 1, 1]], bool)
    joined = np.array([[0, 1, 1, 0, 1, 0, 1, 0]], bool)
    words = find_words(may_mask, joined, np.array([[1, 1, 1, 1, 1, 1, 1, 2]]))
    np.testing.assert_array_equal(words.of_place, [[-1, 0, 0, 1, 1, -1, 2, 3]])
    np.testing.assert_array_equal(words.first, [[1, 3, 6, 7]])
    np.testing.assert_array_equal(words.size, [[2, 2, 1, 1]])
    np.testing.assert_array_equal(words.left, [[2, 1, 1, 1]])  # a special token and a document end a run


def test_whole_words_are_those_of_bert_in_the_same_random_order():
    """The loop of create_masked_lm_predictions, on the order that was drawn."""
    words, units, wanted = choose(40, "whole_words")
    keys = bits(0, np.arange(40))
    for row in range(40):
        count = int((words.size[row] > 0).sum())
        order = np.argsort(bits(keys[row], MASK_ORDER, words.first[row, :count]) >> np.uint64(1))
        chosen, covered = set(), 0
        for word in order:
            if covered >= wanted[row]:
                break
            if covered + words.size[row, word] > wanted[row]:
                continue
            chosen.add(int(words.first[row, word]))
            covered += words.size[row, word]
        assert set(units[row][units[row] >= 0].tolist()) == chosen


@settings(max_examples=60, deadline=None)
@given(
    unit=st.sampled_from(UNITS),
    seed=st.integers(0, 2**32),
    rate=st.floats(0.01, 0.95),
    width=st.integers(8, 90),
    num_documents=st.integers(1, 5),
)
def test_only_whole_words_within_the_bound_are_chosen(unit, seed, rate, width, num_documents):
    tokens, masked = mask(6, unit, seed, rate, width=width, num_documents=num_documents)
    _, is_real, joined, documents = rows_of_words(6, width=width, num_documents=num_documents)
    may_mask = is_real & (tokens >= 5)
    assert not (masked.chosen & ~may_mask).any()
    assert (masked.chosen.sum(1) <= max_predictions(width, rate)).all()
    is_inside = joined[:, 1:] & may_mask[:, 1:] & may_mask[:, :-1] & (documents[:, 1:] == documents[:, :-1])
    np.testing.assert_array_equal(masked.chosen[:, 1:][is_inside], masked.chosen[:, :-1][is_inside])
    np.testing.assert_array_equal(masked.tokens[~masked.chosen], tokens[~masked.chosen])


@pytest.mark.parametrize("unit", UNITS)
def test_a_row_is_masked_alike_in_any_company(unit):
    _, together = mask(12, unit)
    _, alone = mask(12, unit, rows=slice(7, 8))
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[7])
    _, other = mask(12, unit, seed=1)
    assert (other.chosen != together.chosen).any(axis=1).all()


@pytest.mark.parametrize("unit", UNITS)
def test_nearly_all_of_the_places_are_used(unit):
    _, masked = mask(2000, unit)
    counts = masked.chosen.sum(1)
    assert counts.max() == 19
    assert counts.mean() > 18.9  # a word of one piece is nearly always left to fill the rest


@pytest.mark.parametrize("unit", ["spans", "ngrams"])
def test_units_are_as_long_as_published(unit):
    """Only the first unit of a row is drawn with nothing in its way, so one fits into each row."""
    words, units, _ = choose(4000, unit, rate=0.9, width=512)
    keys = bits(0, np.arange(4000))
    first_word = np.argmin(
        np.where(
            words.size > 0, bits(keys[:, None], MASK_ORDER, words.first) >> np.uint64(1), np.uint64(2**64 - 1)
        ),
        axis=1,
    )
    has_room = words.left[np.arange(4000), first_word] >= 10
    place = words.first[np.arange(4000), first_word]
    begun = units == place[:, None]
    at_word = np.zeros(words.first.shape, bool)
    row, column = np.nonzero(begun)
    at_word[row, words.of_place[row, column]] = True
    lengths = at_word.sum(1)[has_room]
    shares = length_shares(unit)
    counts = np.bincount(lengths, minlength=len(shares) + 1)[1:]
    expected = shares * len(lengths)
    # Chi-square with 9 (2) degrees of freedom exceeds 27.9 (13.8) once in a thousand.
    assert ((counts - expected) ** 2 / expected).sum() < {"spans": 27.9, "ngrams": 13.8}[unit]


def test_the_lengths_have_the_published_means():
    spans, ngrams = length_shares("spans"), length_shares("ngrams")
    assert abs(spans @ np.arange(1, 11) - 3.8) < 0.01  # Joshi et al. 2020, 3.1
    np.testing.assert_allclose(ngrams, [6 / 11, 3 / 11, 2 / 11])  # Lan et al. 2020, equation 2


@pytest.mark.parametrize("unit", UNITS)
def test_eighty_percent_are_masked_ten_kept_ten_random(unit):
    tokens, masked = mask(12_000, unit)
    seen, original = masked.tokens[masked.chosen], tokens[masked.chosen]
    # 228,000 places; the spans among them share their fate, so the deviation is that of 50,000: 0.0018.
    assert abs((seen == MASK_ID).mean() - 0.8) < 0.009
    assert abs((seen == original).mean() - 0.1) < 0.008


def test_the_words_of_a_span_share_their_fate_and_those_of_a_whole_word_do_not():
    for unit, is_shared in (("spans", True), ("ngrams", False), ("whole_words", False)):
        words, units, _ = choose(500, unit)
        _, masked = mask(500, unit)
        same = (units[:, 1:] == units[:, :-1]) & (units[:, 1:] >= 0)
        is_mask = masked.tokens == MASK_ID
        agree = is_mask[:, 1:][same] == is_mask[:, :-1][same]
        # A random word is the mask once in 1000. Each on its own agree in 0.8 x 0.8 + 0.2 x 0.2 = 0.68.
        assert agree.mean() > 0.995 if is_shared else agree.mean() < 0.75
        assert len(agree) > 500
        assert words.size.max() > 1
