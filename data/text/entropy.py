"""The losses that counting alone reaches on the held-out text: a model must beat them to have learned."""

import math

import numpy as np

# Enough to settle the counts of a large vocabulary; only the first tokens of a longer split are counted.
MAX_COUNTED_TOKENS = 4_000_000


class TokenSample:
    """The first MAX_COUNTED_TOKENS tokens of a split, with the places where documents start."""

    def __init__(self):
        self._documents: list[np.ndarray] = []
        self.num_tokens = 0

    def add(self, document: np.ndarray) -> None:
        """Takes a document's tokens, as many as there is room for."""
        document = document[: MAX_COUNTED_TOKENS - self.num_tokens]
        if len(document):
            self._documents.append(document)
            self.num_tokens += len(document)

    def tokens(self) -> np.ndarray:
        """All tokens, int64."""
        return np.concatenate([np.zeros(0, np.int64), *self._documents])

    def bigrams(self) -> tuple[np.ndarray, np.ndarray]:
        """Every token that follows another in its document, as (previous, token)."""
        tokens = self.tokens()
        follows = np.ones(len(tokens), bool)
        follows[np.cumsum([0, *(len(document) for document in self._documents[:-1])])] = False
        places = np.flatnonzero(follows)
        return tokens[places - 1], tokens[places]


def unigram_entropy(held_out: TokenSample) -> float:
    """Entropy in nats/token of the held-out tokens' own distribution: no fixed guess has a lower loss."""
    _, counts = np.unique(held_out.tokens(), return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum()) + 0.0


def bigram_entropy(train: TokenSample, held_out: TokenSample, vocab_size: int) -> float | None:
    """Cross-entropy in nats/token of held-out tokens given the one before, under counts of training text.

    p(w|v) = (c(v,w) + t(v) p(w)) / (c(v) + t(v)), where t(v) is the number of types seen after v (Witten
    and Bell 1991), and p(w) the training unigram with one added count. None where no token has one before it.
    """
    previous, following = train.bigrams()
    unigram = np.bincount(train.tokens(), minlength=vocab_size) + 1.0
    unigram /= unigram.sum()
    keys, counts = np.unique(previous * vocab_size + following, return_counts=True)
    num_following = np.bincount(previous, minlength=vocab_size)
    num_types = np.bincount(keys // vocab_size, minlength=vocab_size)

    previous, following = held_out.bigrams()
    if not len(following):
        return None
    pair_counts = _look_up(keys, counts, previous * vocab_size + following)
    types = np.maximum(num_types[previous], 1)  # after an unseen v only the unigram counts
    probability = (pair_counts + types * unigram[following]) / (num_following[previous] + types)
    entropy = float(-np.log(probability).mean())
    assert math.isfinite(entropy)
    return entropy


def _look_up(keys: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The count of each wanted key among the sorted keys, 0 where it is missing."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, counts[places], 0)
