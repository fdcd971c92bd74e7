"""Rows of tagged sentences: a word's tag is at its first piece."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tokenizers

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.corpus import number_labels
from flaxmill.data.examples.encoded_rows import lengths_of, pad_rows
from flaxmill.data.examples.example import Example
from flaxmill.data.examples.framing import make_framer, truncate
from flaxmill.data.examples.labelled_rows import EncodedRows, Encoder, check_tokens, encode_examples
from flaxmill.data.tokenization import Tokenizer

# T tokens of a row

NO_WORD = -1


def make_tagged_encoder(config: DataConfig, tokenizer: Tokenizer, labels: tuple[str, ...]) -> Encoder:
    """Makes rows of words joined by blanks, cut on the tokenizer's truncation side.

    A word that is cut off or has no piece has no tag.
    """
    framer = _make_framer(tokenizer, config)
    number_of = number_labels(labels)

    def encode(examples: Sequence[Example], first: int) -> EncodedRows:
        texts = [" ".join(example.texts) for example in examples]
        encodings = encode_examples(framer.encode_batch, texts, examples)
        ids = [encoding.ids for encoding in encodings]
        check_tokens(ids, examples)
        tags = np.full((len(examples), config.sequence_length), NO_WORD, np.int32)
        for row, (encoding, example) in enumerate(zip(encodings, examples, strict=True)):
            if example.wanted is not None:
                numbers = np.array([number_of(tag, example.place) for tag in example.wanted])
                words = _first_pieces(encoding, example.texts)
                tags[row, : len(words)] = np.where(words == NO_WORD, NO_WORD, numbers[words])
        rows = {
            "tokens": pad_rows(ids, config.sequence_length),
            "tags": tags,
            "length": lengths_of(ids),
            "number": first + np.arange(len(examples)),
        }
        return EncodedRows(rows, sum(bool(encoding.overflowing) for encoding in encodings))

    return encode


def locate_words(
    examples: Iterable[Example], config: DataConfig, tokenizer: Tokenizer
) -> Iterator[np.ndarray]:
    """For each example, thus each row, int32 [T]: the word's number at a word's first piece, else -1."""
    framer = _make_framer(tokenizer, config)
    for example in examples:
        (encoding,) = encode_examples(framer.encode_batch, [" ".join(example.texts)], [example])
        words = _first_pieces(encoding, example.texts)
        yield np.pad(words, (0, config.sequence_length - len(words)), constant_values=NO_WORD)


def _make_framer(tokenizer: Tokenizer, config: DataConfig) -> tokenizers.Tokenizer:
    framer = make_framer(tokenizer, "", markup=config.reads_markup_in_examples)
    truncate(framer, config, is_pair=False, side=tokenizer.truncation_side)
    return framer


def _first_pieces(encoding: tokenizers.Encoding, words: Sequence[str]) -> np.ndarray:
    """For each token the number of the word that it is the first piece of, else -1.

    Pieces of many tokenizers begin with the blank before their word. So a piece belongs to the word that
    holds its last character, and a blank belongs to the word after it.
    """
    word_ends = np.cumsum([len(word) + 1 for word in words]) - 1
    spans = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    is_text = (np.array(encoding.special_tokens_mask) == 0) & (spans[:, 1] > spans[:, 0])
    word = np.searchsorted(word_ends, spans[:, 1] - 1, side="right")
    found = np.full(len(spans), NO_WORD, np.int32)
    numbers, places = np.unique(word[is_text], return_index=True)
    found[np.flatnonzero(is_text)[places]] = numbers
    return found
