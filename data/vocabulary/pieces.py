"""The pieces of a text, as a reader can see them: the bytes of a character are kept together."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import decoders, pre_tokenizers

from flaxmill.data.tokenization import Tokenizer

_REPLACEMENT = "\ufffd"
# The bytes of one character: a run without a whole text by then has none.
_MOST_PIECES = 8

_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
_SPELLED = {code: repr(chr(code))[1:-1] for code in _CONTROLS} | {ord("\\"): "\\\\"}


class Run(NamedTuple):
    """Places start to end - 1 of a row, whose tokens only together are text."""

    start: int
    end: int
    text: str


class Word(NamedTuple):
    """A word of a text, its pieces as the vocabulary spells them, and their ids."""

    text: str
    pieces: tuple[str, ...]
    ids: tuple[int, ...]


def spell_runs(tokenizer: Tokenizer, ids: Sequence[int]) -> list[Run]:
    """Cuts tokens into the shortest runs that are whole characters; most have one token.

    Special tokens are spelled, and so are the bytes of a token that is in no such run. A text begins with
    the blank that decoding puts between it and the text before.
    """
    runs: list[Run] = []
    start = 0
    while start < len(ids):
        before = ids[runs[-1].start : start] if runs else []
        end = start + 1
        text = _decode_after(tokenizer, before, ids[start:end])
        while _REPLACEMENT in text and end < min(len(ids), start + _MOST_PIECES):
            if ids[end] in tokenizer.special_ids:
                break
            end += 1
            text = _decode_after(tokenizer, before, ids[start:end])
        if _REPLACEMENT in text:  # no run of these tokens is text
            end, text = start + 1, spell_token(tokenizer, ids[start])
        runs.append(Run(start, end, text))
        start = end
    return runs


def spell_token(tokenizer: Tokenizer, id_: int) -> str:
    """The text of one token; where it is no whole character, its bytes."""
    text = _decode(tokenizer, [id_])
    return spell_piece(tokenizer, tokenizer.inner.id_to_token(id_) or "") if _REPLACEMENT in text else text


def spell_piece(tokenizer: Tokenizer, piece: str) -> str:
    """A piece of a vocabulary as text; bytes that are no whole character as <E6><9D>."""
    if not isinstance(tokenizer.inner.decoder, decoders.ByteLevel) or piece in tokenizer.added_names:
        return piece
    byte_of = _bytes_by_character()
    if not all(character in byte_of for character in piece):
        return piece
    text = bytes(byte_of[character] for character in piece).decode("utf-8", "surrogateescape")
    return "".join(
        f"<{ord(character) - 0xDC00:02X}>" if "\udc80" <= character <= "\udcff" else character
        for character in text
    )


@functools.cache
def _bytes_by_character() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones stand for themselves, the others follow from U+0100 on."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    themselves = [byte for byte in range(256) if chr(byte) in alphabet]
    others = [byte for byte in range(256) if chr(byte) not in alphabet]
    return {chr(byte): byte for byte in themselves} | {chr(256 + n): byte for n, byte in enumerate(others)}


def cut_words(tokenizer: Tokenizer, text: str) -> list[Word]:
    """The words that the tokenizer first cuts a text into, each with its pieces."""
    encoding = tokenizer.inner.encode(text, add_special_tokens=False)
    words: list[Word] = []
    numbers = encoding.word_ids
    start = 0
    for place in range(1, len(encoding.ids) + 1):
        if place == len(encoding.ids) or numbers[place] is None or numbers[place] != numbers[start]:
            begin, end = encoding.offsets[start][0], encoding.offsets[place - 1][1]
            ids = tuple(encoding.ids[start:place])
            words.append(Word(text[begin:end], tuple(map(tokenizer.inner.id_to_token, ids)), ids))  # type: ignore[arg-type]
            start = place
    return words


def one_line(text: str) -> str:
    """The text with control characters as a string literal spells them: a terminal would obey them."""
    return text.translate(_SPELLED)


def _decode_after(tokenizer: Tokenizer, before: Sequence[int], ids: Sequence[int]) -> str:
    first, both = _decode(tokenizer, before), _decode(tokenizer, [*before, *ids])
    is_whole = _REPLACEMENT not in first and both.startswith(first)
    return both[len(first) :] if is_whole else _decode(tokenizer, ids)


def _decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_specials=False)
