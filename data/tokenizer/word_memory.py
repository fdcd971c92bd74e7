"""Encodes a word once and remembers its ids: most words of a text have been seen before."""

import itertools
import re
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers

from flaxmill.data.tokenizer.words import find_cut

# A memory of so many words takes some 30 MB, and there are two.
_MOST_WORDS = 1 << 17
_MOST_CHARACTERS = 16_000_000
# A word that is encoded alone takes as long as eight in a text, so nothing is gained where an eighth are new.
# At first most words of any text are new. After _COUNTED_WORDS words both are counted from nothing again.
_NEW_AT_FIRST = 1 << 16
_COUNTED_WORDS = 1 << 22
_RESTING_BATCHES = 64


class WordMemory:
    """Gives the ids that `encode_batch_fast` gives, without special tokens around a text, in less time.

    A text goes to the tokenizers library as it is where its words are not cut here (see `find_cut`), where it
    spells a token that was added to the vocabulary, which the library looks for before it cuts, and for a
    while after too many words were new.
    """

    def __init__(self, inner: tokenizers.Tokenizer):
        self._inner = inner
        self._cut = find_cut(inner)
        self._spelled = _added_tokens(inner)
        # Words that were met since the memory was last full, and those from before that.
        self._recent: dict[str, bytes] = {}
        self._earlier: dict[str, bytes] = {}
        self._num_characters = 0
        self._num_words = self._num_new = self._num_resting = 0

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, int32."""
        if self._cut is None or self._num_resting:
            self._num_resting = max(0, self._num_resting - 1)
            return _as_arrays(self._ask(list(texts)))
        words = [self._words_of(text) for text in texts]
        cut = [known for known in words if known is not None]
        others = iter(self._ask([text for text, known in zip(texts, words, strict=True) if known is None]))
        self._learn(set(itertools.chain.from_iterable(cut)))
        ids_of = self._recent.__getitem__
        joined = [next(others) if known is None else b"".join(map(ids_of, known)) for known in words]
        self._forget()
        self._count(sum(map(len, cut)))
        return _as_arrays(joined)

    def _words_of(self, text: str) -> list[str] | None:
        if self._spelled is not None and self._spelled.search(text):
            return None
        assert self._cut is not None
        return self._cut(text)

    def _learn(self, words: set[str]) -> None:
        new = words.difference(self._recent)
        known = new.intersection(self._earlier)
        self._recent.update((word, self._earlier[word]) for word in known)
        unknown = list(new - known)
        self._recent.update(zip(unknown, self._ask(unknown), strict=True))
        self._num_characters += sum(map(len, new))
        self._num_new += len(unknown)

    def _forget(self) -> None:
        if len(self._recent) > _MOST_WORDS or self._num_characters > _MOST_CHARACTERS:
            self._recent, self._earlier, self._num_characters = {}, self._recent, 0

    def _count(self, num_words: int) -> None:
        self._num_words += num_words
        if self._num_new > _NEW_AT_FIRST + self._num_words // 8:
            self._num_resting = _RESTING_BATCHES
        if self._num_resting or self._num_words > _COUNTED_WORDS:
            self._num_words = self._num_new = 0

    def _ask(self, texts: list[str]) -> list[bytes]:
        encodings = self._inner.encode_batch_fast(texts, add_special_tokens=False)
        return [array("i", encoding.ids).tobytes() for encoding in encodings]


def _as_arrays(ids: Iterable[bytes]) -> list[np.ndarray]:
    return [np.frombuffer(each, np.int32) for each in ids]


def _added_tokens(inner: tokenizers.Tokenizer) -> re.Pattern[str] | None:
    """Finds the spellings that the library reads as one token, wherever they are in a text."""
    tokens = inner.get_added_tokens_decoder().values()
    spellings = [
        re.escape(token.content) for token in tokens if not (token.special and inner.encode_special_tokens)
    ]
    return re.compile("|".join(spellings)) if spellings else None
