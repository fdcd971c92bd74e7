"""Trains a Unigram vocabulary (Kudo 2018) with NumPy, so that equal text gives equal pieces.

The trainer of the tokenizers library numbers words in the order of a hash map with a random seed, and adds
their expected counts in that order: two runs differ, and no argument prevents it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flaxmill.data.vocabulary.lattice import Lattice, build_lattice

# W words, C characters of all words, P pieces, E edges of the lattice: an edge is a piece at a place

MAX_PIECE_LENGTH = 16
MAX_WORD_LENGTH = 32
"""Longer words are cut. The probability of a segmentation of so many pieces is still a float64."""
_MAX_WORDS = 200_000  # the commonest; the others hardly change the counts
_SEEDS_PER_ENTRY = 10
_MIN_SEEDS = 20_000
_SHRINKING = 0.75
_MARGIN = 1.1  # pruning ends above the wanted size; the likeliest pieces are then taken
_ROUNDS_OF_EM = 2
_MIN_COUNT = 0.5
_CHARACTER_COVERAGE = 0.9999


class Piece(NamedTuple):
    """A piece and the logarithm of its probability."""

    text: str
    score: float


def find_alphabet(words: Mapping[str, int]) -> list[str]:
    """The commonest characters, which together are 99.99% of the text, sorted."""
    counts: dict[str, int] = {}
    for word, count in words.items():
        for character in word:
            counts[character] = counts.get(character, 0) + count
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    running = np.cumsum([counts[character] for character in ranked])
    total = running[-1] if len(running) else 0
    return sorted(ranked[: int(np.searchsorted(running, _CHARACTER_COVERAGE * total)) + 1])


def train_unigram(words: Mapping[str, int], alphabet: Sequence[str], size: int) -> list[Piece]:
    """At most `size` pieces, the likeliest first; each character of the alphabet is one.

    Expectation maximisation alternates with pruning: a piece whose loss would cost the least likelihood goes
    (Kudo 2018, 3.2).

    Args:
      words: how often each word occurs. Characters outside of the alphabet end a word.
      size: no less than the number of the alphabet's characters.
    """
    assert size >= len(alphabet)
    known = _known_words(words, set(alphabet))
    ranked = sorted(known, key=lambda word: (-known[word], word))[:_MAX_WORDS]
    chosen = sorted(ranked)
    counts_W = np.array([known[word] for word in chosen], np.float64)
    lattice = build_lattice(chosen, counts_W, MAX_PIECE_LENGTH, _num_seeds(size))
    log_p = np.log(lattice.frequencies / lattice.frequencies.sum())
    while True:
        for _ in range(_ROUNDS_OF_EM):
            expected = _expect(lattice, log_p)
            lattice, kept = lattice.keep((expected >= _MIN_COUNT) | lattice.is_character)
            log_p = _maximise(expected[kept])
        if len(log_p) <= int(size * _MARGIN):
            return _likeliest(lattice, log_p, size)
        wanted = max(int(size * _MARGIN), int(len(log_p) * _SHRINKING))
        lattice, kept = lattice.keep(_worth_most(lattice, log_p, _expect(lattice, log_p), wanted))
        log_p = log_p[kept]


def _num_seeds(size: int) -> int:
    return max(_MIN_SEEDS, _SEEDS_PER_ENTRY * size)


def _known_words(words: Mapping[str, int], alphabet: set[str]) -> dict[str, int]:
    """Words of at most MAX_WORD_LENGTH characters of the alphabet."""
    known: dict[str, int] = {}
    for word, count in words.items():
        parts = [word]
        if not alphabet.issuperset(word):
            parts = "".join(character if character in alphabet else "\0" for character in word).split("\0")
        for part in parts:
            for start in range(0, len(part), MAX_WORD_LENGTH):
                piece = part[start : start + MAX_WORD_LENGTH]
                known[piece] = known.get(piece, 0) + count
    return known


def _expect(lattice: Lattice, log_p: np.ndarray) -> np.ndarray:
    """Float64 [P]: how often each piece is expected in the words (forward-backward)."""
    p = np.exp(np.maximum(log_p, -20.0))  # 32 such pieces are still a float64
    forward, backward = np.zeros(lattice.num_nodes), np.zeros(lattice.num_nodes)
    forward[lattice.first_nodes] = 1.0
    backward[lattice.last_nodes] = 1.0
    p_E = p[lattice.pieces]
    for edges in lattice.edges_by_end:
        mass = forward[lattice.starts[edges]] * p_E[edges]
        np.add.at(forward, lattice.ends[edges], mass)
    for edges in lattice.edges_by_start:
        mass = backward[lattice.ends[edges]] * p_E[edges]
        np.add.at(backward, lattice.starts[edges], mass)
    share = np.repeat(
        lattice.counts / forward[lattice.last_nodes], lattice.last_nodes - lattice.first_nodes + 1
    )
    used_E = forward[lattice.starts] * p_E * backward[lattice.ends] * share[lattice.starts]
    return np.bincount(lattice.pieces, weights=used_E, minlength=len(log_p))


def _maximise(expected: np.ndarray) -> np.ndarray:
    """Log probabilities under a sparse prior: the Bayesian EM of SentencePiece, digamma for the logarithm."""
    counts = np.maximum(expected, _MIN_COUNT)
    return _digamma(counts) - _digamma(counts.sum()[None])


def _digamma(x: np.ndarray) -> np.ndarray:
    """The derivative of log gamma for x > 0: a recurrence up to 7, then the asymptotic series."""
    result, x = np.zeros_like(x), x.copy()
    while (small := x < 7).any():
        result[small] -= 1.0 / x[small]
        x[small] += 1.0
    square = 1.0 / (x * x)
    series = square * (1 / 12 - square * (1 / 120 - square / 252))
    return result + np.log(x) - 0.5 / x - series


def _worth_most(lattice: Lattice, log_p: np.ndarray, expected: np.ndarray, wanted: int) -> np.ndarray:
    """Bool [P]: the characters, and the pieces without which the likelihood would fall the furthest."""
    loss = expected * (log_p - lattice.best_without(log_p))
    loss[lattice.is_character] = np.inf
    order = np.lexsort((np.arange(len(loss)), -loss))
    kept = lattice.is_character.copy()
    kept[order[: max(wanted, int(kept.sum()))]] = True
    return kept


def _likeliest(lattice: Lattice, log_p: np.ndarray, size: int) -> list[Piece]:
    texts = lattice.texts()
    num_free = size - int(lattice.is_character.sum())
    by_score = sorted(range(len(texts)), key=lambda number: (-log_p[number], texts[number]))
    free = [number for number in by_score if not lattice.is_character[number]][: max(0, num_free)]
    taken = {*free, *np.flatnonzero(lattice.is_character).tolist()}
    return [Piece(texts[number], float(log_p[number])) for number in by_score if number in taken]
