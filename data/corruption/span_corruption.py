"""T5's span corruption: spans of a text become sentinels, and a decoder writes what they were.

Raffel et al. 2020, section 3.1.4; the lengths and the split into spans are as in t5's `span_corruption`
(random_spans_helper and random_spans_noise_mask).
"""

# n rows, L tokens of a text, S spans of a row, U tokens of a target

import functools
from typing import Any, NamedTuple

import numpy as np

from flaxmill.data.config import DataConfig
from flaxmill.data.draws import SPAN_NOISE, SPAN_TEXT, bits
from flaxmill.data.example_batches import decoder_inputs, read_left_to_right, target_tokens
from flaxmill.data.objectives import SENTINELS
from flaxmill.data.stored_rows import NumpyBatch, Rows


class Lengths(NamedTuple):
    """Tokens of a text, of the inputs that the encoder reads, and of the target, end tokens included."""

    text: int
    inputs: int
    target: int


@functools.lru_cache(maxsize=16)
def span_lengths(config: DataConfig) -> Lengths:
    """The lengths of the longest text that, when corrupted, fits into data.sequence_length."""
    text = config.sequence_length
    while _corrupted(text, config).inputs > config.sequence_length:
        text -= 1  # a span of one token saves none, and the end token needs a place
    while _corrupted(text + 1, config).inputs <= config.sequence_length:
        text += 1
    if config.mask_rate == 0.5 and _corrupted(text, config).target > config.sequence_length:
        text -= 1  # as t5 does, so that inputs and targets have the same round length
    return _corrupted(text, config)


def row_settings(config: DataConfig) -> dict[str, Any]:
    """Settings of the stored rows: they are whole texts, longer than what the encoder reads.

    Raises:
      ValueError: a row has more spans than there are sentinels.
    """
    text = span_lengths(config).text
    num_spans = _num_spans(text, config)
    if num_spans > len(SENTINELS):
        raise ValueError(
            f"data.sequence_length={config.sequence_length} with data.mask_rate={config.mask_rate} and "
            f"data.mean_span_length={config.mean_span_length} makes {num_spans} spans a row, and there are "
            f"{len(SENTINELS)} sentinels; raise data.mean_span_length, or lower one of the others"
        )
    return {"sequence_length": text}


def target_length(config: DataConfig) -> int:
    """The most tokens of a target."""
    return span_lengths(config).target


def corrupt(rows: Rows) -> NumpyBatch:
    """Inputs are texts with a sentinel in place of each span; targets are each sentinel and then its span.

    A row is one text, whatever documents it holds, as in T5. Each epoch corrupts it differently.
    """
    config, source = rows.source.config, rows.source
    tokens, documents, _ = (values[:, :-1] for values in rows.unpack())
    sizes = (documents > 0).sum(1)
    lengths = span_lengths(config)
    inputs = np.zeros((len(tokens), config.sequence_length), np.int32)
    targets = np.zeros((len(tokens), lengths.target), np.int32)
    num_inputs, num_targets = np.zeros(len(tokens), np.int64), np.zeros(len(tokens), np.int64)
    sentinels = _sentinel_ids(rows)
    end_id = source.tokenizer.closing_id
    assert end_id is not None, "a tokenizer without an end token is refused before"
    # All rows but the last of a split are full, so this loop is run once or twice.
    for size in np.unique(sizes):
        chosen = np.flatnonzero(sizes == size)
        kept, written = _split(tokens[chosen, :size], rows.keys[chosen], config, sentinels)
        for made, parts, counts in ((inputs, kept, num_inputs), (targets, written, num_targets)):
            made[chosen, : parts.shape[1]] = parts
            made[chosen, parts.shape[1]] = end_id
            counts[chosen] = parts.shape[1] + 1
    return read_left_to_right(inputs, num_inputs) | decoder_inputs(
        targets, num_targets, target_tokens(source)
    )


def noise_mask(keys: np.ndarray, size: int, config: DataConfig) -> np.ndarray:
    """bool [n, size]: the corrupted places. Spans of text and of noise take turns, text first."""
    num_noise, num_spans = _num_noise(size, config), _num_spans(size, config)
    noise = _segment_lengths(keys, SPAN_NOISE, num_noise, num_spans)
    text = _segment_lengths(keys, SPAN_TEXT, size - num_noise, num_spans)
    lengths = np.stack([text, noise], axis=2).reshape(len(keys), -1)
    ends = np.cumsum(lengths, axis=1)
    starts = np.zeros((len(keys), size + 1), np.int64)
    np.put_along_axis(starts, ends, 1, axis=1)  # each span starts where another ends
    return np.cumsum(starts[:, :size], axis=1) % 2 == 1


def _split(
    tokens: np.ndarray, keys: np.ndarray, config: DataConfig, sentinels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What stays of texts [n, L], and what is taken out, each span after its sentinel. All rows have the same
    number of spans and of tokens of noise, so both results are arrays."""
    num_rows, size = tokens.shape
    if size < 2:  # nothing would be left
        return tokens, tokens[:, :0]
    is_noise = noise_mask(keys, size, config)
    begins = is_noise & ~np.pad(is_noise, ((0, 0), (1, 0)))[:, :-1]
    number = np.cumsum(begins, axis=1) - 1
    marked = np.where(begins, sentinels[np.maximum(number, 0)], tokens)
    kept = marked[~is_noise | begins].reshape(num_rows, -1)
    # A sentinel and the first token of its span come from the same place.
    both = np.stack([marked, tokens], axis=2)
    taken = np.stack([begins, is_noise], axis=2)
    return kept, both[taken].reshape(num_rows, -1)


def _sentinel_ids(rows: Rows) -> np.ndarray:
    inner = rows.source.tokenizer.inner
    return np.array([inner.token_to_id(name) for name in SENTINELS], np.int32)


def _corrupted(text: int, config: DataConfig) -> Lengths:
    num_noise, num_spans = _num_noise(text, config), _num_spans(text, config)
    return Lengths(text, text - num_noise + num_spans + 1, num_noise + num_spans + 1)


def _num_noise(size: int, config: DataConfig) -> int:
    return min(max(round(size * config.mask_rate), 1), max(size - 1, 1))


def _num_spans(size: int, config: DataConfig) -> int:
    num_noise = _num_noise(size, config)
    return max(1, min(round(num_noise / config.mean_span_length), size - num_noise))


def _segment_lengths(keys: np.ndarray, use: int, num_items: int, num_segments: int) -> np.ndarray:
    """[n, S]: the lengths of a random split of the items into segments that are not empty. Every split is
    equally likely: each segment after the first begins at one of the items with the smallest draws."""
    draws = bits(keys[:, None], use, np.arange(max(num_items - 1, 1)))[:, : num_items - 1]
    firsts = np.sort(np.argsort(draws, axis=1, kind="stable")[:, : num_segments - 1], axis=1) + 1
    begin, end = np.zeros((len(keys), 1), np.int64), np.full((len(keys), 1), num_items)
    return np.diff(np.concatenate([begin, firsts, end], axis=1), axis=1)
