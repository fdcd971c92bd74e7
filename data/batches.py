"""batch(step): stored rows, ordered, masked and collated as a pure function of (seed, step, row)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flaxmill.data.config import TASK_OBJECTIVES, DataConfig, Objective
from flaxmill.data.draws import MASKED_PLACES, ROW_ORDER, bits, permute
from flaxmill.data.example_batches import (
    NO_EXAMPLE,
    check_class_weights,
    make_example_batch,
    target_tokens,
)
from flaxmill.data.masking import Masked, mask_tokens, max_predictions
from flaxmill.data.prepared.dataset import Dataset
from flaxmill.data.prepared.layouts import LAYOUTS
from flaxmill.data.text.held_out import Split
from flaxmill.data.text.packing import next_in_document, unpack_rows
from flaxmill.data.text.pairs import segments_of
from flaxmill.data.tokenization import special_lookup

# B rows of a batch, T tokens of a row, n rows of those read at once.

Batch = dict[str, np.ndarray]


class _Source(NamedTuple):
    """Which stored row each row of a batch is, how often that row was seen before, and its mask draws."""

    row: np.ndarray
    epoch: np.ndarray
    keys: np.ndarray


class Batches:
    """Batches of a split, by random access.

    Training repeats for ever, shuffled anew each epoch; epoch e of sentence pairs is plan e mod
    pair_copies. The held-out split goes through once in order; beyond its end rows are empty (mask,
    weights and documents 0). Row r of a batch depends on (seed, step * batch_size + r) alone, so hosts
    that read only their rows see the same batch as one host that reads all.

    Raises ValueError where the config does not fit the dataset.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        *,
        config: DataConfig,
        objective: Objective,
        batch_size: int,
        seed: int,
        decoder_start_id: int | None = None,
    ):
        """decoder_start_id: what an encoder-decoder's decoder reads first; None: the pad token."""
        _check(dataset, config, objective, batch_size)
        self.num_rows: int = dataset.statistics[split]["num_rows"]
        self.num_batches = -(-self.num_rows // batch_size)
        masks = objective in ("mlm", "mlm_nsp")
        # Most places of a row that are predicted; None: any place may be.
        self.max_predictions = max_predictions(config.sequence_length, config.mask_rate) if masks else None
        self.batch_size = batch_size
        self.tokenizer = dataset.tokenizer
        self._dataset = dataset
        self._split: Split = split
        self._config = config
        self._objective: Objective = objective
        self._seed = seed
        # Without a pad token any id will do, since nothing attends to padding.
        self._pad_id = dataset.tokenizer.pad_id or 0
        self._is_special = special_lookup(dataset.tokenizer)
        self._decoder = target_tokens(dataset, decoder_start_id)
        self._class_weights = check_class_weights(config.class_weights, dataset.labels)
        # Rows of plan c are _plan_ends[c] .. _plan_ends[c+1]-1; packed rows are one plan.
        rows_per_plan = dataset.statistics[split].get("rows_per_copy", [self.num_rows])
        self._plan_ends = np.cumsum([0, *rows_per_plan])

    def batch(self, step: int) -> Batch:
        """All rows of the batch at a step."""
        return self.rows(step, 0, self.batch_size)

    def rows(self, step: int, start: int, stop: int) -> Batch:
        """Rows start..stop-1 of the batch at a step: what one of several hosts reads.

        int32 [n,T]: tokens, mask, positions, documents, targets; float32 [n,T]: weights. Sentence pairs
        add segments [n,T] and nsp_labels [n] (1 = random), the hybrid causal [n] (1 = attends causally).

        Labelled examples have the first four, right-padded, and example_numbers [n], the number of the
        row's example in its split, -1 beyond the end of a held-out one; besides, segments [n,T] where two
        texts are read, and
        classification: labels, int32 [n], -1 where unknown; of data.label_type=number float32 [n]; of
        multi_label float32 [n,C], 1 for each of C labels that applies, else 0, all 0 where none does; and
        weights [n], 0 where data.label_column=None leaves the labels unknown;
        token_classification: targets [n,T], the class of a word at its first piece, where weights are 1;
        question_answering: starts and ends [n], first and last token of the answer, 0 where it is not here,
        and weights [n], 1;
        seq2seq, encoder-decoder: decoder_tokens, decoder_mask, targets and weights [n,U];
        seq2seq, decoder: targets and weights [n,T], 1 on the target and its end token alone.
        """
        assert 0 <= start < stop <= self.batch_size
        numbers = step * self.batch_size + np.arange(start, stop, dtype=np.int64)
        exists = np.ones(len(numbers), bool) if self._split == "train" else numbers < self.num_rows
        source = self._locate(np.where(exists, numbers, 0))
        make: dict[Objective, Callable[[_Source, np.ndarray], Batch]] = {
            "causal": self._causal,
            "mlm": self._masked,
            "hybrid": self._hybrid,
            "mlm_nsp": self._pairs,
        }
        batch = make.get(self._objective, self._examples)(source, numbers)
        for name, values in batch.items():
            is_float = name == "weights" or values.dtype == np.float32
            values = values.astype(np.float32 if is_float else np.int32, copy=False)
            batch[name] = values if exists.all() else _blank(name, values, exists)
        batch["tokens"] = np.where(batch["mask"] > 0, batch["tokens"], np.int32(self._pad_id))
        return batch

    def _locate(self, numbers: np.ndarray) -> _Source:
        if self._split == "valid":
            epoch = np.zeros_like(numbers)
            return _Source(numbers, epoch, self._mask_keys(epoch, numbers))
        num_plans = len(self._plan_ends) - 1
        cycle, within = np.divmod(numbers, self._plan_ends[-1])
        plan = np.searchsorted(self._plan_ends, within, side="right") - 1
        epoch = cycle * num_plans + plan
        row = np.empty_like(numbers)
        # A batch spans one epoch or two, more only where it is larger than the data.
        for one in np.unique(epoch):
            begin, end = self._plan_ends[one % num_plans], self._plan_ends[one % num_plans + 1]
            places = within[epoch == one] - begin
            row[epoch == one] = begin + permute(places, int(end - begin), ROW_ORDER, self._seed, int(one))
        return _Source(row, epoch, self._mask_keys(epoch, row))

    def _mask_keys(self, epoch: np.ndarray, row: np.ndarray) -> np.ndarray:
        return bits(MASKED_PLACES, self._seed, epoch, row)

    def _read_packed(self, source: _Source) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        stored = self._dataset.read(self._split, source.row)
        num_tokens = self._dataset.statistics[self._split]["num_tokens"]
        return unpack_rows(stored, source.row, num_tokens, self._dataset.sequence_length)

    def _causal(self, source: _Source, numbers: np.ndarray) -> Batch:
        tokens, documents, positions = self._read_packed(source)
        has_next = next_in_document(documents)
        return _assemble(
            tokens[:, :-1],
            documents[:, :-1],
            positions[:, :-1],
            np.where(has_next, tokens[:, 1:], 0),
            has_next,
        )

    def _masked(self, source: _Source, numbers: np.ndarray) -> Batch:
        tokens, documents, positions = (values[:, :-1] for values in self._read_packed(source))
        masked = self._mask(tokens, documents > 0, source.keys)
        targets = np.where(masked.chosen, tokens, 0)
        return _assemble(masked.tokens, documents, positions, targets, masked.chosen)

    def _hybrid(self, source: _Source, numbers: np.ndarray) -> Batch:
        """Causal rows, and masked rows whose targets stand one place earlier, where a causal head is."""
        tokens, documents, positions = self._read_packed(source)
        has_next = next_in_document(documents)
        causal = _is_causal(numbers, self._config.causal_fraction)[:, None]
        masked = self._mask(tokens[:, :-1], documents[:, :-1] > 0, source.keys)
        next_is_masked = np.pad(masked.chosen[:, 1:], ((0, 0), (0, 1)))
        weights = has_next & (causal | next_is_masked)
        inputs = np.where(causal, tokens[:, :-1], masked.tokens)
        batch = _assemble(
            inputs, documents[:, :-1], positions[:, :-1], np.where(weights, tokens[:, 1:], 0), weights
        )
        return batch | {"causal": causal[:, 0]}

    def _pairs(self, source: _Source, numbers: np.ndarray) -> Batch:
        stored = self._dataset.read(self._split, source.row)
        tokens = stored["tokens"].astype(np.int32)
        mask, segments = segments_of(stored["first_length"], stored["second_length"], tokens.shape[1])
        masked = self._mask(tokens, mask > 0, source.keys)
        positions = np.arange(tokens.shape[1]) * mask
        targets = np.where(masked.chosen, tokens, 0)
        batch = _assemble(masked.tokens, mask, positions, targets, masked.chosen)
        return batch | {"segments": segments, "nsp_labels": stored["label"]}

    def _examples(self, source: _Source, numbers: np.ndarray) -> Batch:
        stored = self._dataset.read(self._split, source.row)
        return make_example_batch(stored, self._dataset, self._decoder, self._class_weights)

    def _mask(self, tokens: np.ndarray, is_real: np.ndarray, keys: np.ndarray) -> Masked:
        mask_id = self.tokenizer.mask_id
        assert mask_id is not None
        return mask_tokens(
            tokens,
            is_real,
            self._is_special,
            mask_rate=self._config.mask_rate,
            mask_id=mask_id,
            vocab_size=self._dataset.vocab_size,
            keys=keys,
        )


def _check(dataset: Dataset, config: DataConfig, objective: Objective, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is below 1; use 1 or more")
    if dataset.sequence_length != config.sequence_length:
        raise ValueError(
            f"data.sequence_length={config.sequence_length} but {dataset.directory} holds rows of "
            f"{dataset.sequence_length}; prepare the data with these settings"
        )
    if dataset.layout not in LAYOUTS[objective]:
        raise ValueError(
            f"objective={objective} cannot read the {dataset.layout} rows of {dataset.directory}; "
            "prepare the data for this objective"
        )
    masks = objective != "causal" and objective not in TASK_OBJECTIVES
    if masks and dataset.tokenizer.mask_id is None:
        raise ValueError(
            f"objective={objective} needs a mask token, which the tokenizer in {dataset.directory} lacks; "
            "use data.tokenizer=bpe or wordpiece"
        )


def _is_causal(numbers: np.ndarray, fraction: float) -> np.ndarray:
    """Spreads the causal rows evenly: row g is one iff floor((g+1) f) > floor(g f)."""
    return np.floor((numbers + 1) * fraction) > np.floor(numbers * fraction)


def _assemble(
    tokens: np.ndarray, documents: np.ndarray, positions: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> Batch:
    return {
        "tokens": tokens,
        "mask": documents > 0,
        "positions": positions,
        "documents": documents,
        "targets": targets,
        "weights": weights,
    }


def _blank(name: str, values: np.ndarray, exists: np.ndarray) -> np.ndarray:
    """Zeros in the rows beyond the end; `causal` stays, so that every batch has the same mix of rows."""
    if name == "causal":
        return values
    if name == "example_numbers":
        return np.where(exists, values, NO_EXAMPLE)
    return np.where(exists.reshape(-1, *[1] * (values.ndim - 1)), values, np.zeros((), values.dtype))
