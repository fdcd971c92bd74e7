"""Makes batches from stored rows of text, one function for each objective; span_corruption.py has its own."""

import numpy as np

from flaxmill.data.corruption.infilling import move_middles
from flaxmill.data.corruption.masking import Masked, mask_tokens
from flaxmill.data.draws import PREFIX_LENGTH, uniform
from flaxmill.data.stored_rows import NumpyBatch, Rows
from flaxmill.data.text.packing import next_in_document, unpack_bits
from flaxmill.data.text.pairs import segments_of

# n rows of a batch, T tokens of a row, t of them that are made (`Rows.tokens`)


def infilled_causal(rows: Rows) -> NumpyBatch:
    """Causal rows; data.fim_rate of the documents in them have their middles moved behind the rest."""
    if not rows.source.config.fim_rate:
        return causal(rows)
    tokens, documents, positions = rows.whole().unpack()
    return _own(rows, _predict_next(move_middles(rows, tokens, documents), documents, positions))


def causal(rows: Rows) -> NumpyBatch:
    """Causal rows: every place predicts the next token of its document."""
    return _predict_next(*rows.unpack())


def _predict_next(tokens: np.ndarray, documents: np.ndarray, positions: np.ndarray) -> NumpyBatch:
    has_next = next_in_document(documents)
    targets = np.where(has_next, tokens[:, 1:], 0)
    return assemble(tokens[:, :-1], documents[:, :-1], positions[:, :-1], targets, has_next)


def conversations(rows: Rows) -> NumpyBatch:
    """Causal rows in which only what the assistant wrote is predicted."""
    batch, tokens = causal(rows), rows.tokens
    following = range(tokens.start + 1, tokens.stop + 1)
    weights = batch["weights"] & unpack_bits(rows.stored["is_target"], following)
    return batch | {"weights": weights, "targets": np.where(weights, batch["targets"], 0)}


def masked(rows: Rows) -> NumpyBatch:
    """Masked rows: masked places predict what was there (Devlin et al. 2019, A.1)."""
    tokens, documents, positions = (values[:, :-1] for values in rows.whole().unpack())
    drawn = _mask(rows, tokens, documents)
    targets = np.where(drawn.chosen, tokens, 0)
    return _own(rows, assemble(drawn.tokens, documents, positions, targets, drawn.chosen))


def hybrid(rows: Rows) -> NumpyBatch:
    """Causal rows, and masked rows whose targets are one place earlier, as a causal head has them."""
    tokens, documents, positions = rows.whole().unpack()
    has_next = next_in_document(documents)
    is_causal = _is_causal(rows.numbers, rows.source.config.causal_fraction)[:, None]
    drawn = _mask(rows, tokens[:, :-1], documents[:, :-1])
    next_is_masked = np.pad(drawn.chosen[:, 1:], ((0, 0), (0, 1)))
    weights = has_next & (is_causal | next_is_masked)
    inputs = np.where(is_causal, tokens[:, :-1], drawn.tokens)
    targets = np.where(weights, tokens[:, 1:], 0)
    batch = assemble(inputs, documents[:, :-1], positions[:, :-1], targets, weights)
    return _own(rows, batch) | {"causal": is_causal[:, 0]}


def pairs(rows: Rows) -> NumpyBatch:
    """Masked sentence pairs, and whether the second sentence is random (Devlin et al. 2019, 3.1)."""
    stored = rows.stored
    tokens = stored["tokens"].astype(np.int32)
    mask, segments = segments_of(stored["first_length"], stored["second_length"], tokens.shape[1])
    drawn = _mask(rows, tokens, mask)
    positions = np.arange(tokens.shape[1]) * mask
    targets = np.where(drawn.chosen, tokens, 0)
    batch = assemble(drawn.tokens, mask, positions, targets, drawn.chosen) | {"segments": segments}
    return _own(rows, batch) | {"nsp_labels": stored["label"]}


def prefix(rows: Rows) -> NumpyBatch:
    """Causal rows with a prefix: its tokens see each other and are not predicted. Its length is random, at
    least one token and not the whole row (T5's `prefix_lm`, Raffel et al. 2020, 3.2.1)."""
    batch, tokens = causal(rows), rows.tokens
    size = np.minimum(rows.with_lengths().stored["length"], len(rows.whole().tokens))
    length = 1 + (uniform(rows.keys, PREFIX_LENGTH) * np.maximum(size - 1, 1)).astype(np.int32)
    # The next token comes after the prefix.
    predicts = np.arange(tokens.start + 1, tokens.stop + 1) >= length[:, None]
    weights = batch["weights"] & predicts
    return batch | {"weights": weights, "targets": np.where(weights, batch["targets"], 0), "prefix": length}


def assemble(
    tokens: np.ndarray, documents: np.ndarray, positions: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> NumpyBatch:
    """The arrays [n,t] that every batch of text has, under their names."""
    return {
        "tokens": tokens,
        "mask": documents > 0,
        "positions": positions,
        "documents": documents,
        "targets": targets,
        "weights": weights,
    }


def _own(rows: Rows, batch: NumpyBatch) -> NumpyBatch:
    """Arrays of whole rows at the part's tokens: what is drawn for a row depends on all that it holds."""
    return {name: rows.own(values) for name, values in batch.items()}


def _mask(rows: Rows, tokens: np.ndarray, documents: np.ndarray) -> Masked:
    source, unit = rows.source, rows.source.config.masking
    mask_id = source.tokenizer.mask_id
    assert mask_id is not None, "a tokenizer without a mask token is refused before"
    return mask_tokens(
        tokens,
        documents > 0,
        source.is_special,
        mask_rate=source.config.mask_rate,
        mask_id=mask_id,
        vocab_size=source.dataset.vocab_size,
        keys=rows.keys,
        unit=unit,
        documents=documents,
        joined=None if unit == "tokens" else source.word_pieces.joined(tokens),
    )


def _is_causal(numbers: np.ndarray, fraction: float) -> np.ndarray:
    """Spreads the causal rows evenly: row g is one iff floor((g+1) f) > floor(g f)."""
    return np.floor((numbers + 1) * fraction) > np.floor(numbers * fraction)
