"""Rows of sequence to sequence: source and target apart for an encoder-decoder, prompt and target in one row
for a decoder."""

import functools
from collections.abc import Sequence

import numpy as np

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.encoded_rows import lengths_of, pad_rows
from flaxmill.data.examples.example import Example
from flaxmill.data.examples.framing import make_framer, make_prompter, truncate
from flaxmill.data.examples.labelled_rows import EncodedRows, Encoder, check_tokens, encode_examples
from flaxmill.data.tokenization import Tokenizer

# S tokens of a source, U of a target, T of a decoder's row


def make_source_encoder(config: DataConfig, tokenizer: Tokenizer, labels: tuple[str, ...]) -> Encoder:
    """Sources are cut on the tokenizer's truncation side, targets at their end; both keep their end token."""
    framer = make_framer(tokenizer, "", closes=True, markup=config.reads_markup_in_examples)
    truncate(framer, config, is_pair=False, side=tokenizer.truncation_side)

    def encode(examples: Sequence[Example], first: int) -> EncodedRows:
        texts = [example.texts[0] for example in examples]
        encodings = encode_examples(framer.encode_batch_fast, texts, examples)
        ids = [encoding.ids for encoding in encodings]
        targets, is_cut = _encode_targets(tokenizer, examples, config)
        rows = {
            "tokens": pad_rows(ids, config.sequence_length),
            "length": lengths_of(ids),
            "target": pad_rows(targets, config.target_length),
            "target_length": lengths_of(targets),
            "number": first + np.arange(len(examples)),
        }
        cut = [bool(encoding.overflowing) for encoding in encodings]
        return EncodedRows(rows, int((np.array(cut) | is_cut).sum()))

    return encode


def make_prompt_encoder(config: DataConfig, tokenizer: Tokenizer, labels: tuple[str, ...]) -> Encoder:
    """A prompt is cut at its end so that data.target_length tokens have room behind it, however many the
    target has: a held-out prompt must not tell how long its target is."""
    framer = make_prompter(tokenizer, config.separator, markup=config.reads_markup_in_examples)
    framer.enable_truncation(check_prompt_room(config, framer.num_special_tokens_to_add(False)))

    def encode(examples: Sequence[Example], first: int) -> EncodedRows:
        texts = [example.texts[0] for example in examples]
        encodings = encode_examples(framer.encode_batch_fast, texts, examples)
        prompts = [encoding.ids for encoding in encodings]
        check_tokens(prompts, examples)
        targets, is_cut = _encode_targets(tokenizer, examples, config)
        ids = [[*prompt, *target] for prompt, target in zip(prompts, targets, strict=True)]
        rows = {
            "tokens": pad_rows(ids, config.sequence_length + 1),
            "prompt_length": lengths_of(prompts),
            "length": lengths_of(ids),
            "number": first + np.arange(len(examples)),
        }
        cut = [bool(encoding.overflowing) for encoding in encodings]
        return EncodedRows(rows, int((np.array(cut) | is_cut).sum()))

    return encode


def check_prompt_room(config: DataConfig, num_around: int = 0) -> int:
    """The room for a prompt and `num_around` special tokens. Raises ValueError where the prompt has none."""
    room = config.sequence_length + 1 - config.target_length
    if room <= num_around:
        raise ValueError(
            f"data.target_length={config.target_length} leaves no room for a prompt and its separator in "
            f"data.sequence_length={config.sequence_length}; raise it, or lower data.target_length"
        )
    return room


def _encode_targets(
    tokenizer: Tokenizer, examples: Sequence[Example], config: DataConfig
) -> tuple[list[list[int]], np.ndarray]:
    """Ids of the targets with their end token, and for each whether it was cut. Unknown targets are empty."""
    assert tokenizer.closing_id is not None, "a tokenizer without an end token is refused before"
    most = config.target_length - 1
    encode = functools.partial(tokenizer.encode_batch, markup=config.reads_markup_in_examples)
    encoded = encode_examples(encode, [example.wanted or "" for example in examples], examples)
    is_cut = np.array([len(ids) > most for ids in encoded])
    targets = [
        [] if example.wanted is None else [*ids[:most], tokenizer.closing_id]
        for ids, example in zip(encoded, examples, strict=True)
    ]
    return targets, is_cut
