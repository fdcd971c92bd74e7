"""The entropies that a model is compared with are checked by hand."""

import math

import numpy as np
import pytest

from flaxmill.data.text import entropy
from flaxmill.data.text.entropy import TokenSample, bigram_entropy, unigram_entropy


def _sample(*documents):
    sample = TokenSample()
    for document in documents:
        sample.add(np.array(document))
    return sample


def test_unigram_entropy_of_even_tokens_is_the_logarithm_of_their_number():
    assert unigram_entropy(_sample([1, 2], [3, 4])) == pytest.approx(math.log(4))
    assert unigram_entropy(_sample([7, 7, 7])) == 0.0


def test_bigrams_do_not_cross_documents():
    previous, following = _sample([1, 2, 3], [4], [5, 6]).bigrams()
    assert list(zip(previous.tolist(), following.tolist(), strict=True)) == [(1, 2), (2, 3), (5, 6)]


def test_bigram_entropy_is_that_of_the_interpolated_model():
    train = _sample([0, 1, 0, 1, 0, 2])
    # After 0: 1 twice, 2 once (two types); unigrams with one added: (4, 3, 2, 1) / 10.
    expected = -math.log((2 + 2 * 0.3) / (3 + 2))
    assert bigram_entropy(train, _sample([0, 1]), 4) == pytest.approx(expected)
    # 3 was never seen, so only the unigram is left.
    assert bigram_entropy(train, _sample([3, 0]), 4) == pytest.approx(-math.log(0.4))


def test_bigram_probabilities_sum_to_one():
    train = _sample([0, 1, 0, 1, 0, 2, 2, 2, 3])
    for previous in range(5):
        entropies = [bigram_entropy(train, _sample([previous, token]), 5) for token in range(5)]
        assert sum(math.exp(-value) for value in entropies if value is not None) == pytest.approx(1.0)


def test_text_that_repeats_has_a_lower_bigram_than_unigram_entropy():
    train, held_out = _sample(list(range(50)) * 20), _sample(list(range(50)) * 2)
    bigram = bigram_entropy(train, held_out, 60_000)
    assert bigram is not None
    assert bigram < 0.5 < unigram_entropy(held_out)


def test_single_tokens_have_no_bigram_entropy():
    assert bigram_entropy(_sample([1, 2]), _sample([1], [2]), 3) is None


def test_the_sample_is_bounded(monkeypatch):
    monkeypatch.setattr(entropy, "MAX_COUNTED_TOKENS", 5)
    assert _sample([1, 2, 3], [4, 5, 6], [7]).tokens().tolist() == [1, 2, 3, 4, 5]
