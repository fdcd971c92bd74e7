"""Makes the batch of a step: rows ordered, masked and collated as a pure function of (seed, step, row)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flaxmill.data.config import DataConfig
from flaxmill.data.draws import ROW_DRAWS, ROW_ORDER, bits, permute
from flaxmill.data.example_batches import NO_EXAMPLE, check_class_weights
from flaxmill.data.objectives import ObjectiveData, data_of, find_function
from flaxmill.data.prepared.dataset import Dataset
from flaxmill.data.special_tokens import lacking_tokens
from flaxmill.data.stored_rows import BatchSource, NumpyBatch, Rows
from flaxmill.data.text.held_out import Split

# B rows of a batch, T tokens of a row, t of them that a host holds, n rows read at once.


class _Located(NamedTuple):
    """For each row of a batch: the number of its stored row, and the key of its random draws."""

    places: np.ndarray
    keys: np.ndarray


class Batches:
    """Batches of a split, by random access.

    Training repeats for ever, in another order each epoch; epoch e of sentence pairs is plan e mod
    pair_copies, and data.static_masks draws its masks as those of epoch e mod pair_copies. The held-out split
    is read once, in order; rows beyond its end are empty (mask, weights and documents 0). Row r of a batch
    depends on (seed, step * batch_size + r) alone, so hosts that read only their rows see the same batch as
    one host that reads all.

    Raises ValueError if the config does not fit the dataset.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        *,
        config: DataConfig,
        objective: str,
        batch_size: int,
        seed: int,
        decoder_start_id: int | None = None,
    ):
        """decoder_start_id: the first token that a decoder reads; None: the pad token, else the end token."""
        data = data_of(objective)
        _check(dataset, config, objective, data, batch_size)
        self.num_rows: int = dataset.statistics[split]["num_rows"]
        self.num_batches = -(-self.num_rows // batch_size)
        bound = data.max_predictions
        # The most places of a row that are predicted; None: every place may be.
        self.max_predictions: int | None = None if bound is None else find_function(bound)(config)
        self.batch_size = batch_size
        self.num_tokens = dataset.sequence_length
        self.tokenizer = dataset.tokenizer
        self.label_names = dataset.label_names
        self._dataset = dataset
        self._split: Split = split
        self._source = BatchSource(dataset, split, config, decoder_start_id)
        self._make = find_function(data.batch)
        self._seed = seed
        # Without a pad token any id will do, since nothing attends to padding.
        self._pad_id = dataset.tokenizer.pad_id or 0
        # Rows of plan c are _plan_ends[c] .. _plan_ends[c+1]-1; packed rows are one plan.
        rows_per_plan = dataset.statistics[split].get("rows_per_copy", [self.num_rows])
        self._plan_ends = np.cumsum([0, *rows_per_plan])

    def batch(self, step: int) -> NumpyBatch:
        """All rows of the batch at a step."""
        return self.rows(step, 0, self.batch_size)

    def rows(self, step: int, start: int, stop: int) -> NumpyBatch:
        """Rows start..stop-1 of the batch at a step: the rows that one of several hosts reads.

        Every batch has int32 [n,T] tokens, mask, positions and documents. The objective decides what else it
        has. Floats, and `weights` whatever their type, become float32; the rest becomes int32:

          text          targets and weights [n,T]; sentence pairs also segments [n,T] and nsp_labels [n]
                        (1 = random, or swapped); the hybrid also causal [n] (1 = attends causally); prefix
                        LM also prefix [n]; span corruption has what seq2seq has for an encoder-decoder
          all examples  example_numbers [n], the number of the row's example in its split, -1 beyond the end
                        of a held-out split; segments [n,T] if two texts are read; rows are right-padded
          classification        labels [n], -1 if unknown, and weights [n], 0 if data.label_column=None leaves
                                the labels unknown; with data.label_type=number labels are float32 [n];
                                with multi_label float32 [n,C], 1 for each of C labels that applies
          token_classification  targets [n,T], the class of a word at its first piece, where weights are 1
          question_answering    starts and ends [n], the first and last token of the answer, 0 if it is not
                                in this window, and weights [n], 1
          seq2seq               decoder_tokens, decoder_mask, targets and weights [n,U] for an
                                encoder-decoder; targets and weights [n,T] for a decoder, weights 1 only
                                on the target and its end token
        """
        return self.parts(step, start, stop, [range(self.num_tokens)])[0]

    def parts(self, step: int, start: int, stop: int, tokens: Sequence[range]) -> list[NumpyBatch]:
        """`rows` of these tokens alone, a batch for each range: what one of hosts that share rows holds.

        Arrays [n,T] become [n,t]; all others are those of whole rows. The rows are read once.
        """
        assert 0 <= start < stop <= self.batch_size
        return self._parts_at(step * self.batch_size + np.arange(start, stop, dtype=np.int64), tokens)

    def at(self, numbers: np.ndarray) -> NumpyBatch:
        """The rows with these numbers, int64 [n], as `rows` has them: row 0 is the first of the run."""
        return self._parts_at(numbers, [range(self.num_tokens)])[0]

    def _parts_at(self, numbers: np.ndarray, tokens: Sequence[range]) -> list[NumpyBatch]:
        exists = np.ones(len(numbers), bool) if self._split == "train" else numbers < self.num_rows
        rows = self.read(np.where(exists, numbers, 0))._replace(numbers=numbers)
        return [self.make(rows._replace(tokens=part), exists) for part in tokens]

    def read(self, numbers: np.ndarray) -> Rows:
        """The stored rows behind the rows with these numbers, int64 [n], with all their tokens."""
        places, keys = self._locate(numbers)
        stored = self._dataset.read(self._split, places)
        return Rows(self._source, stored, places, numbers, keys, range(self.num_tokens))

    def make(self, rows: Rows, exists: np.ndarray) -> NumpyBatch:
        """The batch of these stored rows; rows that do not exist [n] are empty."""
        batch = self._make(rows)
        for name, values in batch.items():
            is_float = name == "weights" or np.issubdtype(values.dtype, np.floating)
            values = values.astype(np.float32 if is_float else np.int32, copy=False)
            batch[name] = values if exists.all() else _blank(name, values, exists)
        batch["tokens"] = np.where(batch["mask"] > 0, batch["tokens"], np.int32(self._pad_id))
        return batch

    def count_rows(self, epochs: float) -> int:
        """The rows of this many epochs, rounded down, but at least one."""
        num_plans = len(self._plan_ends) - 1
        cycles, rest = divmod(epochs, num_plans)
        whole = int(rest)
        of_rest = self._plan_ends[whole] + (rest - whole) * (
            self._plan_ends[min(whole + 1, num_plans)] - self._plan_ends[whole]
        )
        return max(1, int(cycles) * int(self._plan_ends[-1]) + int(of_rest))

    def _locate(self, numbers: np.ndarray) -> _Located:
        if self._split == "valid":
            return _Located(numbers, self._keys(np.zeros_like(numbers), numbers))
        num_plans = len(self._plan_ends) - 1
        cycle, within = np.divmod(numbers, self._plan_ends[-1])
        plan = np.searchsorted(self._plan_ends, within, side="right") - 1
        epoch = cycle * num_plans + plan
        place = np.empty_like(numbers)
        # A batch spans one epoch or two, more only if it is larger than the data.
        for one in np.unique(epoch):
            begin, end = self._plan_ends[one % num_plans], self._plan_ends[one % num_plans + 1]
            index = within[epoch == one] - begin
            order = permute(index, int(end - begin), ROW_ORDER, self._seed, int(one))
            place[epoch == one] = begin + order
        is_static, num_copies = self._source.config.static_masks, self._source.config.pair_copies
        return _Located(place, self._keys(epoch % num_copies if is_static else epoch, place))

    def _keys(self, epoch: np.ndarray, place: np.ndarray) -> np.ndarray:
        return bits(ROW_DRAWS, self._seed, epoch, place)


def _check(
    dataset: Dataset, config: DataConfig, objective: str, data: ObjectiveData, batch_size: int
) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is below 1; use 1 or more")
    own = find_function(data.settings)(config) if data.settings is not None else {}
    length = own.get("sequence_length", config.sequence_length)
    if dataset.sequence_length != length:
        stored = "" if length == config.sequence_length else f", rows of {length} stored tokens,"
        raise ValueError(
            f"data.sequence_length={config.sequence_length}{stored} but {dataset.directory} holds rows of "
            f"{dataset.sequence_length}; prepare the data with these settings"
        )
    if dataset.layout not in data.layouts:
        raise ValueError(
            f"objective={objective} cannot read the {dataset.layout} rows of {dataset.directory}; "
            "prepare the data for this objective"
        )
    lacking = lacking_tokens(dataset.tokenizer, objective, config)
    if "[MASK]" in lacking:
        raise ValueError(
            f"objective={objective} needs a mask token, which the tokenizer in {dataset.directory} lacks; "
            "use data.tokenizer=bpe or wordpiece"
        )
    if config.fim_rate and lacking:
        raise ValueError(
            f"data.fim_rate={config.fim_rate} needs {lacking[0]}, which the tokenizer in {dataset.directory} "
            "lacks; prepare the data with these settings"
        )
    check_class_weights(config.class_weights, dataset.labels)


def _blank(name: str, values: np.ndarray, exists: np.ndarray) -> np.ndarray:
    """Zeros in the rows beyond the end; `causal` stays, so that every batch has the same mix of rows."""
    if name == "causal":
        return values
    if name == "example_numbers":
        return np.where(exists, values, NO_EXAMPLE)
    return np.where(exists.reshape(-1, *[1] * (values.ndim - 1)), values, np.zeros((), values.dtype))
