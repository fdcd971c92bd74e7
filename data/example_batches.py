"""Makes batches from stored rows of labelled examples, one function for each task."""

import math
from typing import NamedTuple

import numpy as np

from flaxmill.data.special_tokens import decoder_start
from flaxmill.data.stored_rows import BatchSource, NumpyBatch, Rows
from flaxmill.data.text.packing import next_in_document, unpack_bits

# n rows, T tokens of a row, t of them that are made (`Rows.tokens`), S of a source, U of a target

NO_EXAMPLE = -1
"""`example_numbers` of a row beyond the end of a held-out split."""
REFERENCE = "reference"
"""What is kept beside the rows of preferences: float32 [rows,2], the log-probabilities of both answers."""


def labelled(rows: Rows) -> NumpyBatch:
    """Texts, or pairs of texts, with their labels."""
    stored, source = rows.stored, rows.source
    batch = _inputs(rows) | {"segments": rows.own(stored["segments"]), "labels": stored["label"]}
    batch["weights"] = _label_weights(stored["label"], source)
    if source.dataset.settings["pair_column"] is None:
        del batch["segments"]
    return _numbered(batch, rows)


def tagged(rows: Rows) -> NumpyBatch:
    """Words with their tags, each at the first piece of its word."""
    tags = rows.own(rows.stored["tags"])
    batch = _inputs(rows) | {"targets": np.where(tags >= 0, tags, 0), "weights": tags >= 0}
    return _numbered(batch, rows)


def answers(rows: Rows) -> NumpyBatch:
    """Questions, and windows over their contexts, with the answer's place in the window."""
    stored = rows.stored
    batch = _inputs(rows) | {
        "segments": rows.own(stored["segments"]),
        "starts": stored["start"],
        "ends": stored["end"],
        "weights": np.ones(len(stored["start"]), bool),
    }
    return _numbered(batch, rows)


def seq2seq(rows: Rows) -> NumpyBatch:
    """A source and its target: apart for an encoder-decoder, in one row for a decoder."""
    if rows.source.dataset.layout == "prompts":
        return _numbered(_prompts(rows), rows)
    stored = rows.stored
    targets = stored["target"].astype(np.int32)
    written = decoder_inputs(targets, stored["target_length"], target_tokens(rows.source))
    return _numbered(_inputs(rows) | written, rows)


def preferences(rows: Rows) -> NumpyBatch:
    """Pairs of answers: in each row the chosen one behind its prompt is document 1, the rejected one document
    2. Weights are 1 where an answer's token is predicted. `reference` [n,2] are the log-probabilities of the
    two before training; NaN as long as nobody has computed them."""
    stored = rows.stored
    tokens = np.pad(stored["tokens"].astype(np.int32), ((0, 0), (0, 1)))
    documents, positions = _two_documents(stored["chosen_length"], stored["length"], tokens.shape[1])
    is_target = unpack_bits(stored["is_target"], range(tokens.shape[1] - 1))
    is_target = np.pad(is_target.astype(bool), ((0, 0), (0, 1)))
    weights = next_in_document(documents) & is_target[:, 1:]
    batch = {
        "tokens": tokens[:, :-1],
        "mask": documents[:, :-1] > 0,
        "positions": positions[:, :-1],
        "documents": documents[:, :-1],
        "targets": np.where(weights, tokens[:, 1:], 0),
        "weights": weights,
    }
    batch = {name: rows.own(values) for name, values in batch.items()}
    unknown = np.full((len(tokens), 2), np.nan, np.float32)
    return _numbered(batch | {"reference": stored.get(REFERENCE, unknown)}, rows)


def matches(rows: Rows) -> NumpyBatch:
    """Pairs of texts: in each row the first is document 1, the second document 2. `weights` [n] are 1."""
    stored = rows.stored
    tokens = stored["tokens"].astype(np.int32)
    documents, positions = _two_documents(stored["first_length"], stored["length"], tokens.shape[1])
    batch = {"tokens": tokens, "mask": documents > 0, "positions": positions, "documents": documents}
    own = {name: rows.own(values) for name, values in batch.items()}
    return _numbered(own | {"weights": np.ones(len(tokens), np.float32)}, rows)


def _two_documents(
    first_length: np.ndarray, length: np.ndarray, num_places: int
) -> tuple[np.ndarray, np.ndarray]:
    """[n,T] which of two documents a place belongs to (0: padding), and its position in it."""
    places, first_length = np.arange(num_places), first_length[:, None]
    is_second = places >= first_length
    documents = np.where(places < length[:, None], 1 + is_second, 0)
    return documents, np.where(is_second, places - first_length, places) * (documents > 0)


class TargetTokens(NamedTuple):
    """The token that a decoder reads first, and the token that pads its rows."""

    start_id: int
    pad_id: int


def target_tokens(source: BatchSource) -> TargetTokens:
    """What a decoder reads of the split's targets, apart from the targets themselves."""
    tokenizer = source.tokenizer
    return TargetTokens(decoder_start(tokenizer, source.decoder_start_id), tokenizer.pad_id or 0)


def check_class_weights(weights: tuple[float, ...], labels: tuple[str, ...]) -> np.ndarray:
    """A weight for each label, ready to be indexed: 0, or 1 and more.

    Raises:
      ValueError: there are more or fewer weights than labels.
    """
    if weights and len(weights) != len(labels):
        raise ValueError(
            f"data.class_weights={', '.join(map(str, weights))} must be one number of 0 or more for each of "
            f"the {len(labels)} labels ({', '.join(labels)})"
        )
    array = np.asarray(weights or (1.0,) * len(labels), np.float32)
    least = array[array > 0].min(initial=1.0)
    # A loss does not depend on their scale, and a sum below 1 would be taken for 1; powers of two are exact.
    return array * np.float32(2.0 ** math.ceil(-math.log2(least)))


def read_left_to_right(tokens: np.ndarray, lengths: np.ndarray, first: int = 0) -> NumpyBatch:
    """Inputs [n,t] of right-padded rows with one document each, from their token `first` on."""
    places = np.arange(first, first + tokens.shape[1])
    mask = (places < lengths[:, None]).astype(np.int32)
    return {"tokens": tokens, "mask": mask, "positions": places * mask, "documents": mask}


def decoder_inputs(targets: np.ndarray, lengths: np.ndarray, decoder: TargetTokens) -> NumpyBatch:
    """[n,U]: the start token and then the targets, shifted right, and the targets themselves."""
    has_target = np.arange(targets.shape[1]) < lengths[:, None]
    shifted = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=decoder.start_id)
    # The start token is there even if the target is unknown and a decoder has yet to write it.
    mask = has_target | (np.arange(targets.shape[1]) == 0)
    return {
        "decoder_tokens": np.where(mask, shifted, decoder.pad_id),
        "decoder_mask": mask,
        "targets": np.where(has_target, targets, 0),
        "weights": has_target,
    }


def _inputs(rows: Rows) -> NumpyBatch:
    tokens = rows.own(rows.stored["tokens"]).astype(np.int32)
    return read_left_to_right(tokens, rows.stored["length"], rows.tokens.start)


def _label_weights(labels: np.ndarray, source: BatchSource) -> np.ndarray:
    """[n]: how much each example counts; 0 if its label is unknown."""
    settings = source.dataset.settings
    if settings["label_column"] is None:
        return np.zeros(len(labels), np.float32)
    if settings["label_type"] != "category":
        return np.ones(len(labels), np.float32)
    return check_class_weights(source.config.class_weights, source.dataset.labels)[labels]


def _prompts(rows: Rows) -> NumpyBatch:
    """A causal batch in which only targets after the prompt count. A row's prompt is its first p tokens,
    where p - 1 is the first place with a weight; if no place has one, it is all real tokens."""
    stored, first, stop = rows.stored, rows.tokens.start, rows.tokens.stop
    tokens = stored["tokens"][:, first : stop + 1].astype(np.int32)
    length, prompt_length = stored["length"][:, None], stored["prompt_length"][:, None]
    places = np.arange(first, stop)
    counts = (places + 1 >= prompt_length) & (places + 1 < length)
    # The last token of a row with a target is only ever a target.
    is_known = length > prompt_length
    batch = read_left_to_right(tokens[:, :-1], stored["length"] - is_known[:, 0], first)
    return batch | {"targets": np.where(counts, tokens[:, 1:], 0), "weights": counts}


def _numbered(batch: NumpyBatch, rows: Rows) -> NumpyBatch:
    return batch | {"example_numbers": rows.stored["number"]}
