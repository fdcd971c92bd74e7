"""Masking follows BERT: how many places are chosen, which, and what replaces them."""

import numpy as np
import pytest

from flaxmill.data.corruption.masking import mask_tokens, max_predictions
from flaxmill.data.draws import bits

VOCAB = 1000
MASK_ID = 4


def _mask(lengths, width=128, rate=0.15, seed=0):
    """Rows whose first and last real tokens are special."""
    lengths = np.asarray(lengths)
    rows = np.arange(len(lengths))
    tokens = (5 + (rows[:, None] * 31 + np.arange(width)) % (VOCAB - 5)).astype(np.int32)
    is_real = np.arange(width) < lengths[:, None]
    tokens[rows, 0] = 2
    tokens[rows, lengths - 1] = 3
    is_special = np.arange(VOCAB) < 5
    masked = mask_tokens(
        tokens,
        is_real,
        is_special,
        mask_rate=rate,
        mask_id=MASK_ID,
        vocab_size=VOCAB,
        keys=bits(seed, rows),
    )
    return tokens, is_real, masked


def test_the_number_of_places_counts_special_tokens_and_is_at_least_one():
    lengths = np.array([3, 4, 10, 13, 17, 50, 100, 127, 128])
    _, _, masked = _mask(lengths)
    # round(0.15 n): 0.45 and 0.6 give the minimum, 1.
    np.testing.assert_array_equal(masked.chosen.sum(axis=1), [1, 1, 2, 2, 3, 8, 15, 19, 19])
    assert masked.chosen.sum(axis=1).max() <= max_predictions(128, 0.15)


def test_a_row_of_special_tokens_alone_has_no_masked_place():
    _, _, masked = _mask([2, 2])
    assert not masked.chosen.any()


@pytest.mark.parametrize("rate", [0.01, 0.5, 0.99])
def test_specials_and_padding_are_never_chosen_or_changed(rate):
    lengths = np.arange(3, 129)
    tokens, is_real, masked = _mask(lengths, rate=rate)
    forbidden = ~is_real | (tokens < 5)
    assert not (masked.chosen & forbidden).any()
    np.testing.assert_array_equal(masked.tokens[~masked.chosen], tokens[~masked.chosen])
    assert (masked.chosen.sum(axis=1) <= max_predictions(128, rate)).all()


def test_eighty_percent_are_masked_ten_kept_ten_random_words():
    tokens, _, masked = _mask(np.full(8000, 128))
    seen, original = masked.tokens[masked.chosen], tokens[masked.chosen]
    shares = [(seen == MASK_ID).mean(), (seen == original).mean(), (seen < 5).mean()]
    # 152,000 places: five standard deviations are 0.005. A random word is the original once in 1000.
    assert abs(shares[0] - 0.8) < 0.006
    assert abs(shares[1] - 0.1) < 0.006
    random_words = seen[(seen != MASK_ID) & (seen != original)]
    counts, _ = np.histogram(random_words, bins=10, range=(0, VOCAB))
    assert random_words.min() == 0
    assert random_words.max() == VOCAB - 1
    assert np.abs(counts / len(random_words) - 0.1).max() < 0.02


def test_every_place_is_chosen_equally_often():
    _, _, masked = _mask(np.full(8000, 128))
    shares = masked.chosen[:, 1:-1].mean(axis=0)
    assert np.abs(shares - 19 / 126).max() < 0.02  # five standard deviations of 0.004


def test_a_row_is_masked_alike_in_any_company():
    _, _, together = _mask([128] * 6)
    tokens, is_real, _ = _mask([128] * 6)
    alone = mask_tokens(
        tokens[4:5],
        is_real[4:5],
        np.arange(VOCAB) < 5,
        mask_rate=0.15,
        mask_id=MASK_ID,
        vocab_size=VOCAB,
        keys=bits(0, np.arange(6))[4:5],
    )
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[4])


def test_other_keys_mask_other_places():
    assert (_mask([128] * 8, seed=0)[2].chosen != _mask([128] * 8, seed=1)[2].chosen).any(axis=1).all()
