"""The stored rows of one batch, as they are given to the function that makes the batch."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from flaxmill.data.config import DataConfig
from flaxmill.data.prepared.dataset import Dataset
from flaxmill.data.text.held_out import Split
from flaxmill.data.text.packing import unpack_rows
from flaxmill.data.tokenization import Tokenizer, special_lookup
from flaxmill.data.tokenizer.word_pieces import WordPieces, find_word_pieces

# n rows of a batch, T tokens of a row, t of them that are made

NumpyBatch = dict[str, np.ndarray]


class BatchSource:
    """A split of a dataset, and the settings that decide how it becomes batches."""

    def __init__(self, dataset: Dataset, split: Split, config: DataConfig, decoder_start_id: int | None):
        """decoder_start_id: the first token that a decoder reads; None: the tokenizer decides."""
        self.dataset = dataset
        self.split: Split = split
        self.config = config
        self.decoder_start_id = decoder_start_id

    @property
    def tokenizer(self) -> Tokenizer:
        return self.dataset.tokenizer

    @cached_property
    def is_special(self) -> np.ndarray:
        """bool [vocabulary]: True for special tokens."""
        return special_lookup(self.tokenizer)

    @cached_property
    def word_pieces(self) -> WordPieces:
        """Which tokens belong to one word."""
        return find_word_pieces(self.tokenizer.inner)


class Rows(NamedTuple):
    """The stored rows of a batch, or of the part of it that one host reads, and the tokens that it holds."""

    source: BatchSource
    stored: dict[str, np.ndarray]
    """The fields of the dataset's layout, each [n, ...]."""
    places: np.ndarray
    """int64 [n]: the number of each stored row in its split."""
    numbers: np.ndarray
    """int64 [n]: how many rows of the run, or of the row's source in a mixture, come before each row."""
    keys: np.ndarray
    """uint64 [n]: the key of each row's random draws, from the seed, the row and how often it was read."""
    tokens: range
    """The tokens of each row that the batch holds: range(T), or a part of it where hosts share rows."""

    def whole(self) -> "Rows":
        """The same rows with all their tokens, for what can only be drawn for a whole row."""
        return self._replace(tokens=range(self.source.dataset.sequence_length))

    def own(self, values: np.ndarray) -> np.ndarray:
        """[n,t]: the values of whole rows, [n,T] or longer, at this part's tokens."""
        return values[:, self.tokens.start : self.tokens.stop]

    def cut(self, start: int, stop: int) -> "Rows":
        """Rows start..stop-1 of these."""
        stored = {name: values[start:stop] for name, values in self.stored.items()}
        places, numbers, keys = (values[start:stop] for values in (self.places, self.numbers, self.keys))
        return self._replace(stored=stored, places=places, numbers=numbers, keys=keys)

    def with_lengths(self) -> "Rows":
        """The rows with the length of each, which rows without padding do not store: all but the last of the
        split are full."""
        if "starts" not in self.stored or "length" in self.stored:
            return self
        dataset, split = self.source.dataset, self.source.split
        length = dataset.statistics[split]["num_tokens"] - self.places * dataset.sequence_length
        return self._replace(stored=self.stored | {"length": length})

    def unpack(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, document numbers and positions of packed rows, int32 [n,t+1]; the last place is only a
        target."""
        stored = self.with_lengths().stored
        return unpack_rows(stored, stored["length"], self.tokens)


def join_rows(parts: Sequence[Rows], order: np.ndarray) -> Rows:
    """Rows of datasets with one tokenizer and one layout as the rows of one: row r is row order[r] of the
    parts laid end to end."""
    parts = [part.with_lengths() for part in parts]
    join = lambda arrays: np.concatenate(arrays)[order]  # noqa: E731
    return parts[0]._replace(
        stored={name: join([part.stored[name] for part in parts]) for name in parts[0].stored},
        places=join([part.places for part in parts]),
        numbers=join([part.numbers for part in parts]),
        keys=join([part.keys for part in parts]),
    )
