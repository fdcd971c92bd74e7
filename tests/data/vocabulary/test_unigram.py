"""Unigram pieces are likely, complete and the same in every training."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxmill.data.vocabulary.lattice import build_lattice
from flaxmill.data.vocabulary.unigram import (
    MAX_PIECE_LENGTH,
    Piece,
    _digamma,
    _expect,
    find_alphabet,
    train_unigram,
)

WORDS = st.dictionaries(
    st.text("abcé東", min_size=1, max_size=40), st.integers(1, 50), min_size=1, max_size=20
)


def segmentations(word: str, pieces: dict[str, float]) -> list[list[str]]:
    """Every way to cut the word into pieces."""
    found = []
    for cuts in itertools.product([False, True], repeat=len(word) - 1):
        places = [0, *(place + 1 for place, cut in enumerate(cuts) if cut), len(word)]
        parts = [word[start:end] for start, end in itertools.pairwise(places)]
        if all(part in pieces for part in parts):
            found.append(parts)
    return found


def test_expected_counts_are_those_of_all_segmentations():
    words = {"abab": 3, "ba": 5, "aab": 2}
    lattice = build_lattice(list(words), np.array(list(words.values()), float), MAX_PIECE_LENGTH, 100)
    texts = lattice.texts()
    p = {text: 0.1 + 0.05 * number for number, text in enumerate(texts)}
    expected: Counter[str] = Counter()
    for word, count in words.items():
        ways = segmentations(word, p)
        weights = [math.prod(p[part] for part in parts) for parts in ways]
        for parts, weight in zip(ways, weights, strict=True):
            for part in parts:
                expected[part] += count * weight / sum(weights)  # type: ignore[assignment]
    found = _expect(lattice, np.log([p[text] for text in texts]))
    np.testing.assert_allclose(found, [expected[text] for text in texts], rtol=1e-12)


def test_the_best_way_without_a_piece_is_the_best_of_all_other_ways():
    words = ["abcab", "bcab", "cab", "ab"]
    lattice = build_lattice(words, np.array([4.0, 3, 2, 5]), MAX_PIECE_LENGTH, 100)
    texts = lattice.texts()
    log_p = {text: -1.0 - 0.37 * (number % 5) for number, text in enumerate(texts)}
    found = lattice.best_without(np.array([log_p[text] for text in texts]))
    for text, best in zip(texts, found, strict=True):
        others = [
            sum(log_p[part] for part in parts) for parts in segmentations(text, log_p) if len(parts) > 1
        ]
        assert best == pytest.approx(max(others, default=-math.inf), abs=1e-12)


def test_first_pieces_are_repeats_that_are_not_always_followed_by_one_character():
    lattice = build_lattice(["the", "then", "this"], np.array([1.0, 1, 1]), MAX_PIECE_LENGTH, 100)
    assert {text for text in lattice.texts() if len(text) > 1} == {"th", "the"} | {"he"}


def test_digamma_meets_its_recurrence_and_a_known_value():
    x = np.array([0.5, 1.0, 3.3, 7.0, 1e6])
    np.testing.assert_allclose(_digamma(x + 1), _digamma(x) + 1 / x, rtol=1e-9)
    assert _digamma(np.array([1.0]))[0] == pytest.approx(-0.5772156649015329, abs=1e-9)  # Euler's constant


@settings(max_examples=60, deadline=None)
@given(WORDS, st.integers(0, 30))
def test_the_alphabet_is_kept_and_the_size_not_exceeded(words, room):
    alphabet = find_alphabet(words)
    pieces = train_unigram(words, alphabet, len(alphabet) + room)
    texts = [piece.text for piece in pieces]
    assert len(set(texts)) == len(texts) <= len(alphabet) + room
    assert set(alphabet) <= set(texts)
    assert all(math.isfinite(piece.score) and piece.score < 0.01 for piece in pieces)
    assert pieces == sorted(pieces, key=lambda piece: (-piece.score, piece.text))


@settings(max_examples=20, deadline=None)
@given(WORDS, st.randoms(use_true_random=False))
def test_the_order_of_the_words_changes_nothing(words, random):
    shuffled = list(words.items())
    random.shuffle(shuffled)
    alphabet = find_alphabet(words)
    assert train_unigram(words, alphabet, 20) == train_unigram(dict(shuffled), alphabet, 20)


def test_common_words_become_pieces():
    words = {"▁river": 90, "▁rivers": 40, "▁run": 70, "▁running": 30, "▁sun": 20, "▁thing": 25}
    pieces = [piece.text for piece in train_unigram(words, find_alphabet(words), 20)]
    assert {"▁river", "▁run"} <= set(pieces)


def test_rare_characters_are_left_out_of_the_alphabet():
    assert find_alphabet({"ab": 100_000, "é": 1}) == ["a", "b"]
    assert find_alphabet({"ab": 10, "é": 1}) == ["a", "b", "é"]
    assert train_unigram({"abéab": 5}, ["a", "b"], 3)[0] == Piece("ab", pytest.approx(-0.05, abs=0.2))  # type: ignore[arg-type]
