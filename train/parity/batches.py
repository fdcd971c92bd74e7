"""Random batches in all the shapes that padding and packing take, as flaxmill reads them and as torch does.

torch always sees one document a row. Packed rows are therefore compared with the same documents in separate
rows, which also shows that packed documents do not see each other.
"""

# B batch (rows), T tokens

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from flaxmill.data.stored_rows import NumpyBatch
from flaxmill.model.config import ModelConfig

IGNORED = -100  # a label that torch leaves out of the loss
MIN_TOKENS, MAX_TOKENS = 24, 512
LABELLED = 0.8  # share of the places that have a label
NUM_ROWS = 3


class ParityPlaces(NamedTuple):
    """Where the real tokens are, in the same order: rows and columns [n] in each side's batch."""

    ours: tuple[np.ndarray, np.ndarray]
    theirs: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class ParityBatch:
    """The same documents for both sides."""

    name: str
    ours: NumpyBatch
    """As `apply` reads it, with the labels of the loss."""
    theirs: NumpyBatch
    """int64 arguments of the torch model's forward, with its labels."""
    places: ParityPlaces
    encoder_places: ParityPlaces | None = None
    """The places in the encoder of an encoder-decoder; `places` are then the decoder's."""


class _Layout(NamedTuple):
    """Documents of one stream (an encoder-decoder has two), and where each begins."""

    lengths: list[list[int]]  # lengths of the documents in each of flaxmill's rows
    starts: list[list[int]]  # the column where each of them begins
    num_tokens: int
    left: bool


def row_length(config: ModelConfig) -> int:
    """Tokens of a row: enough to leave a local layer's window, as far as positions and MAX_TOKENS allow."""
    wanted = MIN_TOKENS if config.window is None else max(MIN_TOKENS, 2 * config.window + 8)
    if config.turns_by_length:
        # A third of it, one of three packed documents, is longer than the original context.
        return min(max(wanted, 3 * (config.rope_original_positions + 4)), MAX_TOKENS)
    return min(wanted, MAX_TOKENS, config.max_positions or MAX_TOKENS)


def variants(config: ModelConfig) -> list[str]:
    """The shapes of batch that this model has; all but "full" have padding."""
    names = ["right"]
    reads_first = config.pooler_kind == "tanh" or (
        config.head == "classification" and config.pooled_place == "first"
    )
    if not reads_first and config.positions != "sinusoidal":
        names.append("left")
    if config.head in ("lm", "mlm", "token_classification") or (
        config.head == "none" and config.pooler_kind == "none"
    ):
        names.append("packed")
    if config.num_segments > 1:
        names.append("segments")
    return [*names, "full"] if config.head == "qa" else names


def make_parity_batch(config: ModelConfig, variant: str, seed: int) -> ParityBatch:
    """A batch of random tokens, never the padding's id at a real place, for one of `variants(config)`."""
    random = np.random.default_rng(seed)
    streams = ["", "decoder_"] if config.encoder_layers else [""]
    T = row_length(config)
    layouts = [_lay_out(variant, T - 2 * index, config.turns_by_length) for index in range(len(streams))]
    ours: NumpyBatch = {}
    theirs: NumpyBatch = {}
    places = []
    for prefix, layout in zip(streams, layouts, strict=True):
        places.append(_places(layout))
        _add_tokens(ours, theirs, prefix, layout, places[-1], config, random)
    if variant != "packed":
        for prefix in streams:
            del ours[f"{prefix}documents"]  # follows from the mask
    if variant == "segments":
        _add_segments(ours, theirs, places[0], config.num_segments, random)
    counted_by_torch = variant != "left" and not config.turns_by_length
    if not counted_by_torch and config.position_offset == 0 and not config.encoder_layers:
        theirs["position_ids"] = np.maximum(theirs["attention_mask"].cumsum(1) - 1, 0)
    _add_labels(ours, theirs, layouts[-1], places[-1], config, random)
    encoder_places = places[0] if len(places) > 1 else None
    return ParityBatch(
        name=variant, ours=ours, theirs=theirs, places=places[-1], encoder_places=encoder_places
    )


def _lay_out(variant: str, T: int, alike: bool) -> _Layout:
    """`alike`: all documents have the same length, since torch turns the rows of a batch by the longest one;
    some padding stays."""
    lengths = [[T], [2 * T // 3], [T // 2]]
    if alike:
        lengths = [[2 * T // 3]] * NUM_ROWS
    if variant == "packed":
        lengths = [[T // 3, T // 4, T // 5], [T], [T // 2, T // 4]]
        if alike:
            lengths = [[T // 3] * 3, [T // 3], [T // 3] * 2]
    if variant == "full":
        lengths = [[T]] * NUM_ROWS
    left = variant == "left"
    starts = [
        [(T - sum(row) if left else 0) + sum(row[:index]) for index in range(len(row))] for row in lengths
    ]
    return _Layout(lengths, starts, T, left)


def _places(layout: _Layout) -> ParityPlaces:
    ours: list[tuple[int, int]] = []
    theirs: list[tuple[int, int]] = []
    documents = [
        (row, start, length)
        for row, (starts, lengths) in enumerate(zip(layout.starts, layout.lengths, strict=True))
        for start, length in zip(starts, lengths, strict=True)
    ]
    for index, (row, start, length) in enumerate(documents):
        shift = layout.num_tokens - length if layout.left else 0
        ours += [(row, start + column) for column in range(length)]
        theirs += [(index, shift + column) for column in range(length)]
    return ParityPlaces(_columns(ours), _columns(theirs))


def _columns(pairs: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.array(pairs).T
    return rows, columns


def _add_tokens(
    ours: NumpyBatch,
    theirs: NumpyBatch,
    prefix: str,
    layout: _Layout,
    places: ParityPlaces,
    config: ModelConfig,
    random: np.random.Generator,
) -> None:
    assert config.vocab_size is not None
    pad_id = config.pad_id or 0
    real = np.delete(np.arange(config.vocab_size), pad_id)
    tokens = random.choice(real, len(places.ours[0]))
    numbers = np.concatenate(
        [np.full(length, number + 1) for row in layout.lengths for number, length in enumerate(row)]
    )
    shape = (len(layout.lengths), layout.num_tokens)
    documents = _scatter(shape, places.ours, numbers)
    ours[f"{prefix}tokens"] = _scatter(shape, places.ours, tokens, pad_id)
    ours[f"{prefix}documents"] = documents
    ours[f"{prefix}mask"] = (documents > 0).astype(np.int32)
    shape = (sum(map(len, layout.lengths)), layout.num_tokens)
    theirs[f"{prefix}input_ids"] = _scatter(shape, places.theirs, tokens, pad_id).astype(np.int64)
    theirs[f"{prefix}attention_mask"] = _scatter(shape, places.theirs, np.ones_like(tokens)).astype(np.int64)


def _add_segments(
    ours: NumpyBatch, theirs: NumpyBatch, places: ParityPlaces, num_segments: int, random: np.random.Generator
) -> None:
    segments = random.integers(0, num_segments, len(places.ours[0]))
    ours["segments"] = _scatter(ours["tokens"].shape, places.ours, segments)
    theirs["token_type_ids"] = _scatter(theirs["input_ids"].shape, places.theirs, segments).astype(np.int64)


def _scatter(shape: tuple[int, ...], at: Any, values: np.ndarray, empty: int = 0) -> np.ndarray:
    array = np.full(shape, empty, np.int32)
    array[at] = values
    return array


def _add_labels(
    ours: NumpyBatch,
    theirs: NumpyBatch,
    layout: _Layout,
    places: ParityPlaces,
    config: ModelConfig,
    random: np.random.Generator,
) -> None:
    if config.head in ("lm", "mlm", "mlm_nsp", "token_classification"):
        _add_token_labels(ours, theirs, places, config, random)
    if config.head == "mlm_nsp":
        ours["nsp_labels"] = random.integers(0, 2, NUM_ROWS).astype(np.int32)
        theirs["next_sentence_label"] = ours["nsp_labels"].astype(np.int64)
    elif config.head == "classification":
        ours["labels"], theirs["labels"] = _row_labels(config, random)
        ours["weights"] = np.ones(NUM_ROWS, np.float32)
    elif config.head == "qa":
        for name, their_name in (("starts", "start_positions"), ("ends", "end_positions")):
            rows = zip(layout.starts, layout.lengths, strict=True)
            within = [starts[0] + random.integers(lengths[0]) for starts, lengths in rows]
            ours[name] = np.array(within, np.int32)
            theirs[their_name] = ours[name].astype(np.int64)
        ours["weights"] = np.ones(NUM_ROWS, np.float32)
    elif config.head == "none":
        ours["distance_to"] = random.standard_normal((*ours["tokens"].shape, config.embed_dim))
        theirs["distance_to"] = np.zeros((*theirs["input_ids"].shape, config.embed_dim))
        theirs["distance_to"][places.theirs] = ours["distance_to"][places.ours]


def _row_labels(config: ModelConfig, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels for the rows: a class for each row, or for each class whether it is there, or numbers."""
    assert config.num_classes is not None
    each = NUM_ROWS if config.num_classes == 1 else (NUM_ROWS, config.num_classes)
    match config.problem:
        case "multi_label_classification":
            labels = random.integers(0, 2, (NUM_ROWS, config.num_classes)).astype(np.float32)
        case "regression":
            labels = random.standard_normal(each).astype(np.float32)
        case _:
            labels = random.integers(0, config.num_classes, NUM_ROWS)
            return labels.astype(np.int32), labels.astype(np.int64)
    return labels, labels


def _add_token_labels(
    ours: NumpyBatch,
    theirs: NumpyBatch,
    places: ParityPlaces,
    config: ModelConfig,
    random: np.random.Generator,
) -> None:
    """A label for most places. torch's causal models shift them; flaxmill's targets come shifted."""
    num_classes = config.num_classes if config.head == "token_classification" else config.vocab_size
    assert num_classes is not None
    num_places = len(places.ours[0])
    labels = random.integers(0, num_classes, num_places)
    labelled = random.random(num_places) < LABELLED
    shape = theirs["decoder_input_ids" if config.encoder_layers else "input_ids"].shape
    if is_shifted := config.head == "lm" and not config.encoder_layers:
        # A document's first token has no place that could predict it; torch would let padding do it.
        labelled &= np.append(False, places.theirs[0][1:] == places.theirs[0][:-1])
    wanted = np.where(labelled, labels, IGNORED)
    theirs["labels"] = _scatter(shape, places.theirs, wanted, IGNORED).astype(np.int64)
    if is_shifted:
        labels, labelled = np.roll(labels, -1), np.roll(labelled, -1)
    shape = ours["decoder_tokens" if config.encoder_layers else "tokens"].shape
    ours["targets"] = _scatter(shape, places.ours, labels)
    ours["weights"] = _scatter(shape, places.ours, labelled).astype(np.float32)
