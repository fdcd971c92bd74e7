"""Pairs of answers to a prompt, of which one was preferred: rows of texts or of conversations."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

from flaxmill.data.config import DataConfig
from flaxmill.data.conversations.encoding import Encoded, encode_conversations
from flaxmill.data.conversations.messages import Message, Rendered, check_spelling, read_list
from flaxmill.data.conversations.rendering import Chat, can_converse, make_chat
from flaxmill.data.examples.encoded_rows import pad_rows
from flaxmill.data.examples.example import Example
from flaxmill.data.examples.framing import document_frame
from flaxmill.data.examples.labelled_rows import EncodedRows, Encoder, encode_examples
from flaxmill.data.files.rows import Row, check_unicode
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.settings import TEMPLATE_FILE

# n tokens of an answer behind its prompt, T of a row

_COLUMNS = ("prompt", "chosen", "rejected")


class Pair(NamedTuple):
    """A prompt with two answers: all texts, or all lists of messages."""

    prompt: Any
    chosen: Any
    rejected: Any


def read_preference(row: Row, config: DataConfig) -> Example:
    """A prompt with its chosen and its rejected answer, in TRL's forms: texts, or lists of messages. Without
    a prompt, or with a text beside lists, it is what both answers begin with.

    The texts of the example are those of the three; what is wanted is the pair's messages, or None for texts.
    """
    given = [row.values.get(name) for name in _COLUMNS]
    pair = Pair(*given)
    is_text = isinstance(pair.chosen, str) and isinstance(pair.rejected, str)
    if is_text and isinstance(pair.prompt, str | None):
        for name, text in zip(_COLUMNS, given, strict=True):
            check_unicode(text or "", row.place, name)
        pair = pair if pair.prompt is not None else _split_texts(pair, row.place)
        return Example(tuple(pair), None, row.values, row.place)
    answers = [read_list(value, name, row.place) for name, value in zip(_COLUMNS[1:], given[1:], strict=True)]
    if pair.prompt is None or isinstance(pair.prompt, str):
        pair = _split_messages(Pair(None, *answers), row.place)
    else:
        pair = Pair(read_list(pair.prompt, "prompt", row.place), *answers)
    for name, messages in zip(_COLUMNS[1:], pair[1:], strict=True):
        if not any(message["role"] == "assistant" for message in messages):
            raise ValueError(
                f"{row.place}: {name!r} has no message of the assistant; add one, or delete the row"
            )
    texts = ("\n".join(message["content"] for message in messages) for messages in pair)
    return Example(tuple(texts), list(pair), row.values, row.place)


def make_preference_encoder(config: DataConfig, tokenizer: Tokenizer, labels: tuple[str, ...]) -> Encoder:
    """Rows that hold the chosen answer behind its prompt, and then the rejected one behind its own.

    A text is framed as a document, and its end token is a part of the answer; a conversation is written by
    the chat template, and its answer is what the assistant says behind the prompt. Where a pair is longer
    than a row, both prompts lose their beginnings, and then the answers their ends.
    """
    chat = make_chat(tokenizer) if can_converse(tokenizer) else None
    frame = document_frame(tokenizer, config.framing)

    def encode_all(answers: list[tuple[Example, int]]) -> list[Encoded]:
        encoded: dict[int, Encoded] = {}
        for is_text in (True, False):
            numbers = [n for n, (example, _) in enumerate(answers) if (example.wanted is None) == is_text]
            rendered = [_render(*answers[number], chat, config) for number in numbers]
            # A template's own special tokens are always these tokens.
            markup = config.reads_markup_in_examples or not is_text
            found = encode_conversations(rendered, tokenizer, markup=markup)
            encoded |= zip(numbers, map(in_frame, found) if is_text else found, strict=True)
        return [encoded[number] for number in range(len(answers))]

    def in_frame(encoded: Encoded) -> Encoded:
        tokens, is_target = encoded
        is_framed_target = [False] * len(frame.before) + is_target.tolist() + [True] * len(frame.after)
        return np.array([*frame.before, *tokens, *frame.after], np.int32), np.array(is_framed_target, bool)

    def encode(examples: Sequence[Example], first: int) -> EncodedRows:
        answers = [(example, answer) for example in examples for answer in (1, 2)]
        encoded = encode_examples(encode_all, answers, [example for example, _ in answers])
        for (_, is_target), (example, answer) in zip(encoded, answers, strict=True):
            if not is_target[1:].any():
                raise ValueError(
                    f"{example.place}: the tokenizer, or its chat template, leaves nothing of "
                    f"{_COLUMNS[answer]!r} behind the prompt; correct it, or delete the row"
                )
        pairs = list(zip(encoded[::2], encoded[1::2], strict=True))
        return _store(pairs, first, config.sequence_length)

    return encode


def _store(pairs: list[tuple[Encoded, Encoded]], first: int, num_places: int) -> EncodedRows:
    fitted = [_fit(chosen, rejected, num_places) for chosen, rejected in pairs]
    rows, targets = ([np.concatenate([c[part], r[part]]) for c, r in fitted] for part in (0, 1))
    lengths = np.array([len(row) for row in rows], np.int32)
    before = np.array([len(chosen[0]) + len(rejected[0]) for chosen, rejected in pairs])
    stored = {
        "tokens": pad_rows(rows, num_places),
        "is_target": np.packbits(pad_rows(targets, num_places).astype(bool), axis=1),
        "length": lengths,
        "chosen_length": np.array([len(chosen[0]) for chosen, _ in fitted], np.int32),
        "number": first + np.arange(len(pairs)),
    }
    return EncodedRows(stored, int((before > lengths).sum()))


def _split_texts(pair: Pair, place: str) -> Pair:
    """The pair with the text that both answers begin with as its prompt; a blank at its end belongs to the
    answers, as in TRL."""
    both = zip(pair.chosen, pair.rejected, strict=False)
    size = sum(1 for _ in takewhile(lambda two: two[0] == two[1], both))
    if size in (len(pair.chosen), len(pair.rejected)):
        raise _no_difference(place)
    size -= size > 0 and pair.chosen[size - 1] == " "
    return Pair(pair.chosen[:size], pair.chosen[size:], pair.rejected[size:])


def _split_messages(pair: Pair, place: str) -> Pair:
    """The pair with the messages that both answers begin with as its prompt."""
    both = zip(pair.chosen, pair.rejected, strict=False)
    size = sum(1 for _ in takewhile(lambda two: two[0] == two[1], both))
    if size in (len(pair.chosen), len(pair.rejected)):
        raise _no_difference(place)
    return Pair(pair.chosen[:size], pair.chosen[size:], pair.rejected[size:])


def _no_difference(place: str) -> ValueError:
    return ValueError(
        f"{place}: one of 'chosen' and 'rejected' begins with all of the other, so that they do not tell the "
        "prompt; give it as 'prompt', or delete the row"
    )


def _render(example: Example, answer: int, chat: Chat | None, config: DataConfig) -> Rendered:
    """The text of an answer behind its prompt, and where in it the answer is."""
    if example.wanted is None:
        prompt = example.texts[0]
        text = prompt + example.texts[answer]
        return Rendered(text, ((len(prompt), len(text)),))
    if chat is None:
        raise ValueError(
            f"{example.place} is a conversation, and the tokenizer has no chat template; put it beside the "
            f"tokenizer as {TEMPLATE_FILE}, or give texts"
        )
    messages: list[Message] = [*example.wanted[0], *example.wanted[answer]]
    if not config.reads_markup_in_examples:
        check_spelling(messages, chat.specials, example.place)
    try:
        text, targets = chat.render(messages)
    except ValueError as error:
        raise ValueError(f"{example.place}: {error}; correct the messages, or delete the row") from None
    num_turns = sum(message["role"] == "assistant" for message in example.wanted[answer])
    return Rendered(text, targets[-num_turns:])


def _fit(chosen: Encoded, rejected: Encoded, num_places: int) -> tuple[Encoded, Encoded]:
    """Both with so much of them as a row holds."""
    over = len(chosen[0]) + len(rejected[0]) - num_places
    if over <= 0:
        return chosen, rejected
    # One token stays in front of an answer, for its first token to be predicted there.
    given = min(int(is_target.argmax()) for _, is_target in (chosen, rejected)) - 1
    start = max(0, min(-(-over // 2), given))
    (chosen, rejected) = ((ids[start:], is_target[start:]) for ids, is_target in (chosen, rejected))
    of_chosen = min(len(chosen[0]), max(num_places - len(rejected[0]), num_places // 2))
    of_rejected = min(len(rejected[0]), num_places - of_chosen)
    return (chosen[0][:of_chosen], chosen[1][:of_chosen]), (
        rejected[0][:of_rejected],
        rejected[1][:of_rejected],
    )
