"""Finds the text of a batch that a tokenizer fails at, and names it with its place."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Text = TypeVar("Text")
Encoded = TypeVar("Encoded")

_FIXES = {
    "unk_id": "set unk_id in tokenizer.json to the id of its unknown token",
    "[UNK]": "add the unk_token of tokenizer.json to its vocabulary",
}


def encode_texts(
    encode: Callable[[list[Text]], Sequence[Encoded]], texts: Sequence[Text], place_of: Callable[[int], str]
) -> Sequence[Encoded]:
    """What `encode` gives for a batch of texts or of pairs; `place_of` says where the n-th one is.

    Raises ValueError for the first text that the tokenizer fails at.
    """
    try:
        return encode(list(texts))
    except BaseException as error:
        if not _is_of_tokenizers(error):
            raise
        failure = error
    for number, text in enumerate(texts):
        try:
            encode([text])
        except BaseException as error:
            if not _is_of_tokenizers(error):
                raise
            raise _cannot_encode(place_of(number), text, error) from None
    raise _cannot_encode(place_of(0), texts[0], failure)  # it fails only at all of them together


def half_character(text: str) -> int | None:
    """The place of half a surrogate pair, which JSON and a shell's bytes can spell and no tokenizer reads."""
    if text.isascii():  # which a string knows of itself
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def is_panic(error: BaseException) -> bool:
    """Whether code in Rust panicked; the error is not an Exception."""
    return type(error).__name__ == "PanicException"


def _is_of_tokenizers(error: BaseException) -> bool:
    """Whether the tokenizers library raised it: its errors are bare Exceptions, or panics."""
    return type(error) is Exception or is_panic(error)


def _cannot_encode(place: str, text: Any, error: BaseException) -> ValueError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    fix = next((fix for mark, fix in _FIXES.items() if mark in reason), "correct it, or delete the text")
    shown = text if isinstance(text, str) else " ".join(text)
    return ValueError(f"{place}: the tokenizer cannot encode {shown!r:.60} ({reason}); {fix}")
