"""Packed rows: documents laid end to end and split into rows, and rows turned into training batches."""

from collections.abc import Sequence

import numpy as np

# n rows, T tokens of a row as the model sees it, t of these; a stored row holds T+1.


class Packer:
    """Cuts a stream of documents into stored rows; holds less than one row between calls.

    Args:
      continues: the first document is the rest of one that began before.
    """

    def __init__(self, sequence_length: int, *, continues: bool = False):
        self.num_tokens = 0
        self._continues = continues
        self._length = sequence_length
        self._tokens = np.zeros(0, np.int32)
        self._starts = np.zeros(0, bool)

    def add(self, documents: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Appends documents (non-empty int arrays) and returns the rows that are full now."""
        lengths = [len(document) for document in documents]
        starts = np.zeros(sum(lengths), bool)
        if documents:
            starts[np.cumsum([0, *lengths[:-1]])] = True
            starts[0] = self.num_tokens > 0 or not self._continues
        self.num_tokens += len(starts)
        self._tokens = np.concatenate([self._tokens, *documents])
        self._starts = np.concatenate([self._starts, starts])
        num_full = max(0, len(self._tokens) - 1) // self._length
        rows = self._cut(num_full)
        self._tokens = self._tokens[num_full * self._length :]
        self._starts = self._starts[num_full * self._length :]
        return rows

    def finish(self) -> dict[str, np.ndarray]:
        """The last row, padded with zeros; none if only the token repeated from the row before is left."""
        if len(self._tokens) < 2 and self.num_tokens != len(self._tokens):
            return self._cut(0)
        self._tokens = np.pad(self._tokens, (0, self._length + 1 - len(self._tokens)))
        self._starts = np.pad(self._starts, (0, self._length + 1 - len(self._starts)))
        return self._cut(1 if self.num_tokens else 0)

    def _cut(self, num_rows: int) -> dict[str, np.ndarray]:
        places = np.arange(num_rows)[:, None] * self._length + np.arange(self._length + 1)
        return {"tokens": self._tokens[places], "starts": np.packbits(self._starts[places], axis=1)}


def unpack_rows(
    stored: dict[str, np.ndarray], lengths: np.ndarray, tokens: range
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, document numbers and positions [n,t+1] of stored rows with these lengths [n].

    Documents count from 1 in each row and are 0 beyond its length, which may be more than T+1; positions
    restart in each document, also where it continues from the row before.

    Args:
      tokens: the tokens of each row, of which there are t; the one after them is their last one's target.
    """
    first, end = tokens.start, tokens.stop + 1
    starts = np.unpackbits(stored["starts"], axis=1, count=end)
    starts[:, 0] = 1
    places = np.arange(first, end, dtype=np.int32)
    is_real = places < lengths[:, None]
    documents = np.cumsum(starts[:, first:], axis=1, dtype=np.int32)
    first_places = np.where(starts[:, first:], places, 0)
    if first:  # documents before these tokens, and the start of the one that they begin in
        documents += np.count_nonzero(starts[:, :first], axis=1).astype(np.int32)[:, None]
        first_places[:, 0] = first - np.argmax(starts[:, first::-1], axis=1)
    np.maximum.accumulate(first_places, axis=1, out=first_places)
    positions = np.subtract(places, first_places, out=first_places)
    documents *= is_real
    positions *= is_real
    return stored["tokens"][:, first:end].astype(np.int32), documents, positions


def unpack_bits(packed: np.ndarray, tokens: range) -> np.ndarray:
    """Bool [n,t]: the bits [n,...] of these tokens, eight of a row's tokens in a byte."""
    first = tokens.start // 8
    bits = np.unpackbits(packed[:, first : -(-tokens.stop // 8)], axis=1)
    return bits[:, tokens.start - 8 * first : tokens.stop - 8 * first] > 0


def next_in_document(documents: np.ndarray) -> np.ndarray:
    """Bool [n,T]: whether the token after each place belongs to the same document."""
    return (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] > 0)
