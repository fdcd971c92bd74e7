"""Finds the runs of held-out tokens that training documents hold too."""

from collections.abc import Iterable, Iterator

import numpy as np

from flaxmill.data.draws import bits
from flaxmill.data.duplicates.run_hashes import extend, hash_at, hash_runs, hash_windows

RUN_LENGTH = 13
"""Tokens of a run; GPT-3's report takes at most 13 words (Brown et al. 2020, appendix C)."""
RUN_BYTES = 52
"""A run of shorter tokens than usual has more of them, so that it holds about the text that 13 tokens of
GPT-2's tokenizer hold of English. Runs of 13 single bytes are in any text."""
LEAST_LENGTH = 8
"""A held-out document shorter than a run of 13 tokens is looked for whole if it has so many, GPT-3's least;
for other runs, if it has the same share of a run."""
CONTAMINATED_SHARE = 0.8
"""A document counts as contaminated from this share of its tokens on; Llama 2's report calls it dirty
(Touvron et al. 2023, appendix A.6)."""
MAX_TOKENS = 4_000_000

# Tokens that are looked up at once: their arrays stay in a core's cache.
_BLOCK = 1 << 15


def choose_length(num_tokens: int, num_bytes: int) -> int:
    """The tokens of a run, for a text that has so many tokens and bytes."""
    return max(RUN_LENGTH, round(RUN_BYTES * num_tokens / max(num_bytes, 1)))


class HeldOutRuns:
    """The runs of tokens in held-out documents, by hashes of 64 bits.

    Another run of training tokens has the hash of a held-out one by chance for 1 in 2^64 pairs: 0.2 of a
    trillion training tokens with 4 million held-out ones.
    """

    def __init__(
        self, documents: Iterable[np.ndarray], *, length: int = RUN_LENGTH, max_tokens: int = MAX_TOKENS
    ):
        """Reads documents, without the tokens that frame them, until they have `max_tokens` tokens; the last
        one is cut there. Memory: 20 bytes a token, and 65 while they are sorted.

        Args:
          documents: int [tokens] each. A document that is shorter than a run is looked for as a whole, or is
            passed over, see LEAST_LENGTH.
        """
        self._length, self._least = length, -(-LEAST_LENGTH * length // RUN_LENGTH)
        kept = list(_long_enough(documents, self._least, max_tokens))
        self._lengths = np.array([len(tokens) for tokens in kept], np.int64)
        tokens = np.concatenate([np.zeros(0, np.int32), *kept])
        del kept
        # A token that is in no held-out document has the last value, which is in no run.
        self._values = bits(np.arange(int(tokens.max(initial=-1)) + 2))
        hashes, places = hash_runs(self._values[tokens], self._lengths, length)
        self._places = places.astype(np.int32)
        del places
        distinct, run_of_place = np.unique(hashes, return_inverse=True)
        self._run_of_place = run_of_place.astype(np.int32)
        self._runs = _HashSet(distinct)
        short = (np.cumsum(self._lengths) - self._lengths)[self._lengths < length]
        self._beginnings = _HashSet(np.unique(hash_at(self._values[tokens], short, self._least)))

    def find(self, tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """The sorted numbers of the runs that training tokens hold. A run lies inside one document.

        Args:
          tokens: int [N].
          starts: bool [N], True at the first token of each document.
        """
        is_found = np.zeros(len(self._runs.hashes), bool)
        for first in range(0, len(tokens), _BLOCK):
            block = slice(first, first + _BLOCK + self._length - 1)
            values = self._values.take(tokens[block], mode="clip")
            places, runs = self._runs.find(hash_windows(values, self._length))
            if len(places):
                is_inside = _is_inside(starts[block], places, self._length)
                is_found[runs[is_inside]] = True
            if len(self._beginnings.hashes):
                is_found[self._find_short(values, starts[block])] = True
        return np.flatnonzero(is_found)

    def statistics(self, found: Iterable[np.ndarray]) -> dict[str, float | int]:
        """What the training tokens hold of the held-out ones, from the answers of `find` for all of them.

        contaminated_tokens: the share of the held-out tokens that lie in a run that was found.
        num_contaminated: held-out documents of which at least 80% of the tokens do.
        num_checked: held-out documents that were looked for.
        """
        is_found = np.zeros(len(self._runs.hashes), bool)
        for runs in found:
            is_found[runs] = True
        ends = np.cumsum(self._lengths)
        places = self._places[is_found[self._run_of_place]]
        sizes = np.minimum(np.repeat(self._lengths, self._lengths)[places], self._length)
        changes = np.zeros(int(self._lengths.sum()) + 1, np.int32)
        np.add.at(changes, places, 1)
        np.add.at(changes, places + sizes, -1)
        is_covered = np.cumsum(changes[:-1]) > 0
        covered = np.add.reduceat(is_covered, ends - self._lengths, dtype=np.int64) if len(ends) else ends
        return {
            "contaminated_tokens": float(covered.sum() / max(self._lengths.sum(), 1)),
            "num_contaminated": int((covered / self._lengths >= CONTAMINATED_SHARE).sum()),
            "num_checked": len(self._lengths),
        }

    def _find_short(self, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """The runs that are whole documents: found by their first tokens, then one token longer at a time."""
        hashes = hash_windows(values, self._least)
        places, _ = self._beginnings.find(hashes)
        hashes, found = hashes[places], []
        for length in range(self._least, self._length):
            chosen, runs = self._runs.find(hashes)
            found.append(runs[_is_inside(starts, places[chosen], length)])
            has_next = places + length < len(values)
            places = places[has_next]
            hashes = extend(hashes[has_next], values[places + length])
        return np.concatenate([np.zeros(0, np.int64), *found])


class _HashSet:
    """Sorted hashes, and a table of bits that rules most others out before they are searched for.

    It is a Bloom filter: a hash sets the bits that its upper and its lower bits name; at most 1 bit in 16 is
    set.
    """

    def __init__(self, hashes: np.ndarray):
        self.hashes = hashes
        width = max(10, (32 * len(hashes)).bit_length())
        self._shift, self._mask = np.uint64(64 - width), np.uint64((1 << width) - 1)
        self._table = np.zeros(1 << (width - 3), np.uint8)
        for bits_ in (hashes >> self._shift, hashes & self._mask):
            np.bitwise_or.at(self._table, _byte(bits_), np.uint8(1) << _bit(bits_))

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places of those that are in the set, and their numbers in it."""
        places = self._with_bit(hashes >> self._shift)
        places = places[self._with_bit(hashes[places] & self._mask)]
        found = hashes[places]
        numbers = np.searchsorted(self.hashes, found)
        is_member = self.hashes.take(numbers, mode="clip") == found
        return places[is_member], numbers[is_member]

    def _with_bit(self, bits_: np.ndarray) -> np.ndarray:
        return np.flatnonzero((self._table.take(_byte(bits_)) >> _bit(bits_)) & np.uint8(1))


def _byte(bits_: np.ndarray) -> np.ndarray:
    return (bits_ >> np.uint64(3)).view(np.int64)


def _bit(bits_: np.ndarray) -> np.ndarray:
    return bits_.astype(np.uint8) & np.uint8(7)


def _is_inside(starts: np.ndarray, places: np.ndarray, length: int) -> np.ndarray:
    """Whether no document starts inside the run of `length` tokens from each place on."""
    count = np.cumsum(starts, dtype=np.int32)
    return count[places + length - 1] == count[places]


def _long_enough(documents: Iterable[np.ndarray], least: int, max_tokens: int) -> Iterator[np.ndarray]:
    """The documents that are looked for, as far as there is room for their tokens."""
    room = max_tokens
    for document in documents:
        tokens = np.asarray(document[:room], np.int32)
        if len(tokens) >= least:
            yield tokens
            room -= len(tokens)
        if room < least:
            return
