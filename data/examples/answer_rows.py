"""Rows of extractive question answering: windows over a context, with the answer's first and last token."""

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tokenizers

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.encoded_rows import lengths_of, pad_rows
from flaxmill.data.examples.example import Answer, Example
from flaxmill.data.examples.framing import make_framer
from flaxmill.data.examples.labelled_rows import EncodedRows, Encoder, encode_examples, segments_of
from flaxmill.data.tokenization import Tokenizer

# T tokens of a row

OUTSIDE = -1


def make_answer_encoder(config: DataConfig, tokenizer: Tokenizer, labels: tuple[str, ...]) -> Encoder:
    """Makes rows of a question and a window over its context; rows train on the first answer.

    Neighbouring windows share data.stride tokens of the context.
    """
    framer = _make_framer(tokenizer, config)

    def encode(examples: Sequence[Example], first: int) -> EncodedRows:
        windows = list(_windows(framer, examples, config))
        spans = [_answer_span(encoding, examples[index].wanted) for index, encoding in windows]
        ids = [encoding.ids for _, encoding in windows]
        numbers = np.array([index for index, _ in windows])
        rows = {
            "tokens": pad_rows(ids, config.sequence_length),
            "segments": segments_of([encoding for _, encoding in windows], tokenizer, config),
            "length": lengths_of(ids),
            "start": np.array([start for start, _ in spans]),
            "end": np.array([end for _, end in spans]),
            "number": first + numbers,
        }
        num_windows = np.bincount(numbers, minlength=len(examples))
        return EncodedRows(rows, int((num_windows > 1).sum()))

    return encode


def locate_contexts(
    examples: Iterable[Example], config: DataConfig, tokenizer: Tokenizer
) -> Iterator[tuple[int, np.ndarray]]:
    """For each stored row of these examples, in order: the example's number, and int32 [T,2], the characters
    of the context at which each token begins and ends; -1 outside the context.

    The text of an answer from token i to j is context[offsets[i, 0] : offsets[j, 1]].
    """
    framer = _make_framer(tokenizer, config)
    for number, example in enumerate(examples):
        for _, encoding in _windows(framer, [example], config):
            offsets = np.full((config.sequence_length, 2), OUTSIDE, np.int32)
            places = _context_places(encoding)
            offsets[places] = np.array(encoding.offsets, np.int32)[places]
            yield number, offsets


def check_stride(config: DataConfig, num_around: int = 0) -> None:
    """Raises ValueError where windows share all the room that `num_around` special tokens leave."""
    room = config.sequence_length - num_around
    if config.stride >= room:
        beside = f" beside {num_around} special tokens" if num_around else ""
        raise ValueError(
            f"data.stride={config.stride} tokens that neighbouring windows share leave nothing new in a "
            f"window: data.sequence_length={config.sequence_length} has room for {room}{beside}; lower "
            f"data.stride, for example to {room // 3}, or raise data.sequence_length"
        )


def _make_framer(tokenizer: Tokenizer, config: DataConfig) -> tokenizers.Tokenizer:
    framer = make_framer(tokenizer, "", markup=config.reads_markup_in_examples)
    num_around = framer.num_special_tokens_to_add(True)
    assert num_around, "a tokenizer without [CLS] is refused before"
    check_stride(config, num_around)
    return framer


def _windows(
    framer: tokenizers.Tokenizer, examples: Sequence[Example], config: DataConfig
) -> Iterator[tuple[int, tokenizers.Encoding]]:
    """(index of the example, window), the windows of one example from the context's front to its end."""
    _check_questions(framer, examples, config)
    framer.enable_truncation(config.sequence_length, stride=config.stride, strategy="only_second")
    encodings = encode_examples(framer.encode_batch, [example.texts for example in examples], examples)
    for index, encoding in enumerate(encodings):
        yield index, encoding
        yield from ((index, window) for window in encoding.overflowing)


def _check_questions(framer: tokenizers.Tokenizer, examples: Sequence[Example], config: DataConfig) -> None:
    """Checks that a window has room for more of the context than it shares with its neighbour."""
    framer.no_truncation()
    room = config.sequence_length - framer.num_special_tokens_to_add(True)
    encode = functools.partial(framer.encode_batch_fast, add_special_tokens=False)
    questions = encode_examples(encode, [example.texts[0] for example in examples], examples)
    for question, example in zip(questions, examples, strict=True):
        left = room - len(question.ids)
        if left > config.stride:
            continue
        (context,) = encode_examples(encode, [example.texts[1]], [example])
        needed = len(context.ids)
        if needed > max(left, 0):
            raise ValueError(
                f"{example.place}: its question of {len(question.ids)} tokens leaves room for "
                f"{max(left, 0)} of the context's {needed}, and windows share "
                f"data.stride={config.stride}; raise data.sequence_length={config.sequence_length}, lower "
                "data.stride, or shorten the question"
            )


def _context_places(encoding: tokenizers.Encoding) -> np.ndarray:
    return np.flatnonzero(np.array([sequence == 1 for sequence in encoding.sequence_ids]))


def _answer_span(encoding: tokenizers.Encoding, answers: Sequence[Answer]) -> tuple[int, int]:
    """The first answer's first and last token; (0, 0) unless this window holds all of it."""
    places = _context_places(encoding)
    if not answers or not len(places):
        return 0, 0
    offsets = np.array(encoding.offsets)[places]
    begin, end = answers[0].start, answers[0].start + len(answers[0].text)
    if offsets[0, 0] > begin or offsets[-1, 1] < end:
        return 0, 0
    starts, ends = offsets[:, 0], offsets[:, 1]
    # The bytes of one character share its offsets: an answer begins at their first and ends at their last.
    first = np.searchsorted(starts, starts[np.searchsorted(starts, begin, side="right") - 1])
    last = np.searchsorted(ends, ends[np.searchsorted(ends, end)], side="right") - 1
    return int(places[first]), int(places[last])
