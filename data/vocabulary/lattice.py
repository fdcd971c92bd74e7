"""The lattice of a Unigram vocabulary: every piece at every place of every word, as arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# W words, C characters of all words, P pieces, E edges; a word of n characters has n + 1 nodes

_CHARACTER_BITS = 21  # a code point has no more


class Lattice(NamedTuple):
    """Words, the pieces that they can be cut into, and where.

    text: the characters of all words, one word after another.
    counts: float64 [W]: how often each word occurs.
    first_nodes, last_nodes: int64 [W].
    frequencies: float64 [P]: how often each piece's text occurs.
    spans: int64 [P,2]: a place in `text` where the piece stands, and its length.
    is_character: bool [P].
    starts, ends, pieces: int64 [E]: the edges' nodes and their pieces.
    edges_by_end, edges_by_start: the edges' numbers in groups; a group needs only the groups before it.
    """

    text: str
    counts: np.ndarray
    first_nodes: np.ndarray
    last_nodes: np.ndarray
    frequencies: np.ndarray
    spans: np.ndarray
    is_character: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    pieces: np.ndarray
    edges_by_end: list[np.ndarray]
    edges_by_start: list[np.ndarray]

    @property
    def num_nodes(self) -> int:
        return len(self.text) + len(self.counts)

    def texts(self) -> list[str]:
        """The pieces."""
        return [self.text[place : place + length] for place, length in self.spans.tolist()]

    def keep(self, kept: np.ndarray) -> tuple["Lattice", np.ndarray]:
        """The lattice with these pieces alone (bool [P]), renumbered; and the same bools."""
        if kept.all():
            return self, kept
        number_of = np.cumsum(kept) - 1
        edges = kept[self.pieces]
        pieces = number_of[self.pieces[edges]]
        smaller = self._replace(
            frequencies=self.frequencies[kept], spans=self.spans[kept], is_character=self.is_character[kept]
        )
        return _with_edges(smaller, self.starts[edges], self.ends[edges], pieces), kept

    def best_without(self, log_p: np.ndarray) -> np.ndarray:
        """Float64 [P]: the log probability of the likeliest way to cut each piece into others; -inf: none.

        Every piece stands somewhere in a word: the edges inside that place are a lattice of its own.
        """
        place, length = self.spans.T
        word = np.searchsorted(self.first_nodes - np.arange(len(self.counts)), place, side="right") - 1
        first = place + word  # the node before the piece's first character
        order = np.argsort(self.starts, kind="stable")
        starts, ends, log_p_E = self.starts[order], self.ends[order], log_p[self.pieces[order]]
        longest = int(length.max())
        best = np.full((len(length), longest + 1), -np.inf)
        best[:, 0] = 0.0
        from_, to = (
            np.searchsorted(starts, np.arange(self.num_nodes + 1), side=side) for side in ("left", "right")
        )
        for offset in range(longest):
            rows = np.flatnonzero(length > offset)
            nodes = first[rows] + offset
            for number in range(int((to[nodes] - from_[nodes]).max(initial=0))):
                edge = from_[nodes] + number
                is_edge = edge < to[nodes]
                edge = np.where(is_edge, edge, 0)
                reach = offset + ends[edge] - starts[edge]
                # The whole piece is what is to be replaced.
                usable = is_edge & (reach <= length[rows]) & ~((offset == 0) & (reach == length[rows]))
                at, reach, edge = rows[usable], reach[usable], edge[usable]
                best[at, reach] = np.maximum(best[at, reach], best[at, offset] + log_p_E[edge])
        return best[np.arange(len(length)), length]


class _Texts(NamedTuple):
    """All texts of one length that occur often enough. N of them, at M places.

    places: int64 [M]: where they stand. numbers: int64 [M]: which of them stands there.
    frequencies: float64 [N]. examples: int64 [N]: a place of each.
    goes_on: bool [N]: whether one and the same character always follows.
    """

    length: int
    places: np.ndarray
    numbers: np.ndarray
    frequencies: np.ndarray
    examples: np.ndarray
    goes_on: np.ndarray


def build_lattice(words: Sequence[str], counts: np.ndarray, max_piece_length: int, num_seeds: int) -> Lattice:
    """The lattice of the words with the first pieces: all characters, and the `num_seeds` texts of two or
    more characters that cover the most text and are not always followed by one and the same character."""
    text = "".join(words)
    lengths = np.array([len(word) for word in words], np.int64)
    word_of = np.repeat(np.arange(len(words)), lengths)
    first_places = np.cumsum(lengths) - lengths
    first_nodes = first_places + np.arange(len(words))
    by_length = _find_texts(text, (first_places + lengths)[word_of], counts[word_of], max_piece_length)
    chosen = _choose_seeds(text, by_length, num_seeds)
    starts, ends, pieces, spans, frequencies = [], [], [], [], []
    num_pieces = 0
    for texts, taken in zip(by_length, chosen, strict=True):
        number_of = np.where(taken, num_pieces + np.cumsum(taken) - 1, -1)
        is_edge = taken[texts.numbers]
        nodes = texts.places[is_edge] + word_of[texts.places[is_edge]]
        starts.append(nodes)
        ends.append(nodes + texts.length)
        pieces.append(number_of[texts.numbers[is_edge]])
        spans.append(np.stack([texts.examples[taken], np.full(taken.sum(), texts.length)], 1))
        frequencies.append(texts.frequencies[taken])
        num_pieces += int(taken.sum())
    spans_P = np.concatenate(spans)
    no_edges = np.zeros(0, np.int64)
    without_edges = Lattice(
        text=text,
        counts=counts,
        first_nodes=first_nodes,
        last_nodes=first_nodes + lengths,
        frequencies=np.concatenate(frequencies),
        spans=spans_P,
        is_character=spans_P[:, 1] == 1,
        starts=no_edges,
        ends=no_edges,
        pieces=no_edges,
        edges_by_end=[],
        edges_by_start=[],
    )
    return _with_edges(without_edges, *map(np.concatenate, (starts, ends, pieces)))


def _find_texts(text: str, word_ends_C: np.ndarray, counts_C: np.ndarray, max_length: int) -> list[_Texts]:
    """The texts of each length within words. A text of two or more characters occurs at least twice."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64)
    places = np.arange(len(codes))
    keys = codes
    found: list[_Texts] = []
    for length in range(1, max_length + 1):
        _, examples, numbers = np.unique(keys, return_index=True, return_inverse=True)
        frequencies = np.bincount(numbers, weights=counts_C[places])
        often = np.ones(len(examples), bool) if length == 1 else frequencies >= 2
        renumbered, is_kept = np.cumsum(often) - 1, often[numbers]
        examples, places, numbers = places[examples[often]], places[is_kept], renumbered[numbers[is_kept]]
        frequencies = frequencies[often]
        if found:
            _mark_parts(found[-1], places, frequencies[numbers])
        found.append(_Texts(length, places, numbers, frequencies, examples, np.zeros(len(examples), bool)))
        longer = places + length < word_ends_C[places]
        places = places[longer]
        keys = (numbers[longer] << _CHARACTER_BITS) | codes[places + length]
    return found


def _mark_parts(shorter: _Texts, places: np.ndarray, frequencies: np.ndarray) -> None:
    """Sets `goes_on` of texts that occur as often as a text one longer at the same place."""
    numbers = shorter.numbers[np.searchsorted(shorter.places, places)]
    shorter.goes_on[numbers[shorter.frequencies[numbers] == frequencies]] = True


def _choose_seeds(text: str, by_length: list[_Texts], num_seeds: int) -> list[np.ndarray]:
    """For each length, which texts are pieces at first (bool [N])."""
    longer = by_length[1:]
    covered = np.concatenate([np.zeros(0), *(texts.frequencies * texts.length for texts in longer)])
    covered[np.concatenate([np.zeros(0, bool), *(texts.goes_on for texts in longer)])] = 0
    # Equal sums keep their order, by length and then by code points: it does not depend on a hash.
    best = np.argsort(-covered, kind="stable")[:num_seeds]
    taken = np.zeros(len(covered), bool)
    taken[best[covered[best] > 0]] = True
    borders = np.cumsum([len(texts.frequencies) for texts in longer])[:-1]
    return [np.ones(len(by_length[0].frequencies), bool), *np.split(taken, borders)]


def _with_edges(lattice: Lattice, starts: np.ndarray, ends: np.ndarray, pieces: np.ndarray) -> Lattice:
    word_of_node = np.repeat(np.arange(len(lattice.counts)), lattice.last_nodes - lattice.first_nodes + 1)
    first = lattice.first_nodes[word_of_node[starts]]
    return lattice._replace(
        starts=starts,
        ends=ends,
        pieces=pieces,
        edges_by_end=_group(ends - first),
        edges_by_start=_group(starts - first)[::-1],
    )


def _group(offsets: np.ndarray) -> list[np.ndarray]:
    """The numbers of equal offsets, by offset."""
    order = np.argsort(offsets, kind="stable")
    return np.split(order, np.cumsum(np.bincount(offsets))[:-1])
