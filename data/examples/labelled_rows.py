"""Rows of one text or a pair with a label, for classification and regression."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tokenizers

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.corpus import number_labels
from flaxmill.data.examples.encoded_rows import lengths_of, pad_rows
from flaxmill.data.examples.example import Example
from flaxmill.data.examples.framing import make_framer, truncate
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.failures import encode_texts

UNKNOWN_LABEL = -1

T = TypeVar("T")


class EncodedRows(NamedTuple):
    """Stored rows {field: [rows, ...]}, and the number of examples with a text that was cut."""

    rows: dict[str, np.ndarray]
    num_cut: int


Encoder = Callable[[Sequence[Example], int], EncodedRows]
"""Turns examples into stored rows, given the first example's number in its split."""


def make_labelled_encoder(config: DataConfig, tokenizer: Tokenizer, labels: tuple[str, ...]) -> Encoder:
    """Makes rows of one text or a pair, with a label or a number.

    Long texts are cut on the tokenizer's truncation side. In a pair, the longer text is cut first, as
    transformers' longest_first does. An unknown label is -1, an unknown number 0. With multi_label, each
    label has 1 where it applies, else 0.
    """
    is_pair = config.pair_column is not None
    separator = config.separator if is_pair else ""
    framer = make_framer(tokenizer, separator, markup=config.reads_markup_in_examples)
    truncate(framer, config, is_pair=is_pair, side=tokenizer.truncation_side)
    number_of = number_labels(labels)

    def label_of(example: Example) -> int | float:
        if config.label_type == "number":
            return 0.0 if example.wanted is None else example.wanted
        return UNKNOWN_LABEL if example.wanted is None else number_of(example.wanted, example.place)

    def labels_of(examples: Sequence[Example]) -> np.ndarray:
        if config.label_type != "multi_label":
            return np.array([label_of(example) for example in examples])
        applies = np.zeros((len(examples), len(labels)), np.float32)
        for row, example in enumerate(examples):
            applies[row, [number_of(label, example.place) for label in example.wanted or ()]] = 1
        return applies

    def encode(examples: Sequence[Example], first: int) -> EncodedRows:
        inputs = [example.texts if is_pair else example.texts[0] for example in examples]
        encodings = encode_examples(framer.encode_batch_fast, inputs, examples)
        ids = [encoding.ids for encoding in encodings]
        check_tokens(ids, examples)
        rows = {
            "tokens": pad_rows(ids, config.sequence_length),
            "segments": segments_of(encodings, tokenizer, config),
            "length": lengths_of(ids),
            "label": labels_of(examples),
            "number": first + np.arange(len(examples)),
        }
        return EncodedRows(rows, sum(bool(encoding.overflowing) for encoding in encodings))

    return encode


def segments_of(
    encodings: Sequence[tokenizers.Encoding], tokenizer: Tokenizer, config: DataConfig
) -> np.ndarray:
    """int32 [rows,T]: which text of a pair each token belongs to; 0 where the tokenizer does not tell."""
    segments = pad_rows([encoding.type_ids for encoding in encodings], config.sequence_length)
    return segments if tokenizer.gives_segments else np.zeros_like(segments)


def encode_examples(
    encode: Callable[[list[Any]], Sequence[T]], inputs: Sequence[Any], examples: Sequence[Example]
) -> Sequence[T]:
    """What `encode` gives for an input of each example. Raises ValueError for an input that it fails at."""
    return encode_texts(encode, inputs, lambda number: examples[number].place)


def check_tokens(ids: Sequence[Sequence[int]], examples: Sequence[Example]) -> None:
    """Raises ValueError for a text that the tokenizer drops, as it may drop control characters."""
    for its_ids, example in zip(ids, examples, strict=True):
        if not its_ids:
            raise ValueError(
                f"{example.place}: the tokenizer finds no token in {' '.join(example.texts)!r:.60}; delete it"
            )
