"""Texts as sets of hashed runs of words, for many texts at once.

A run's hash is a number of the text alone: it does not depend on the process, nor on the texts beside it.
"""

import functools
import unicodedata
from collections.abc import Sequence

import numpy as np

from flaxmill.data.draws import bits
from flaxmill.data.duplicates.run_hashes import hash_runs
from flaxmill.data.tokenizer.word_pieces import is_written_without_blanks

SHINGLE_WORDS = 5

# A word's hash is a polynomial modulo 2^64; the factor is odd, so its powers can be divided by.
_FACTOR = 0xD6E8_FEB8_6659_FD93

_BLANK, _LETTER, _WORD = 0, 1, 2
_NUM_CHARACTERS = 0x40000  # no letter has a higher code


def hash_shingles(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Uint32 hashes of the runs of 5 words of all texts, text after text, and how many each text has.

    A text is lower-cased; its words are the runs of letters, marks and digits, and single characters of a
    script that is written without blanks. A text of 1 to 4 words is one run.
    """
    words, num_words = _hash_words(texts)
    hashes, _ = hash_runs(words, num_words, SHINGLE_WORDS)
    num_runs = np.minimum(num_words, np.maximum(num_words - SHINGLE_WORDS + 1, 1))
    return (bits(hashes) >> np.uint64(32)).astype(np.uint32), num_runs


def _hash_words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Uint64 hashes of the words of all texts, and how many each text has."""
    lowered = [text.lower() for text in texts]
    codes = np.frombuffer("\n".join([*lowered, ""]).encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _kinds().take(codes, mode="clip")
    is_first = kinds != _BLANK
    is_first[1:] &= (kinds[1:] == _WORD) | (kinds[:-1] != _LETTER)
    places = np.flatnonzero(is_first)
    text_ends = np.cumsum([len(text) + 1 for text in lowered])
    num_words = np.diff(np.searchsorted(places, text_ends), prepend=0)
    if not len(places):
        return np.zeros(0, np.uint64), num_words
    powers, inverse_powers = _powers(1 << (len(codes) - 1).bit_length())
    terms = powers[: len(codes)] * codes
    terms[kinds == _BLANK] = 0
    return bits(np.add.reduceat(terms, places) * inverse_powers[places]), num_words


@functools.cache
def _kinds() -> np.ndarray:
    """Uint8 [codes]: whether a character belongs to a word, is a word of its own, or neither."""
    characters = [chr(code) for code in range(_NUM_CHARACTERS)]
    kinds = np.array([unicodedata.category(one)[0] in "LMN" for one in characters], np.uint8)
    kinds[[code for code in np.flatnonzero(kinds) if is_written_without_blanks(characters[code])]] = _WORD
    kinds[-1] = _BLANK  # higher codes are read as this one
    return kinds


@functools.lru_cache(2)
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first powers of the factor and of its inverse modulo 2^64."""
    factors = _FACTOR, pow(_FACTOR, -1, 1 << 64)
    first, second = (np.full(count, factor, np.uint64) for factor in factors)
    first[0] = second[0] = 1
    return np.cumprod(first), np.cumprod(second)
