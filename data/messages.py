"""Pieces of the messages that name a user's mistake."""

import difflib
from collections.abc import Sequence


def require(condition: bool, message: str) -> None:
    """Raise ValueError unless the condition holds."""
    if not condition:
        raise ValueError(message)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A question naming the nearest of the known words, or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def shorten(items: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first `most` of the items, and how many more there are: "a, b and 3 more"."""
    more = len(items) - most
    last = " and " if separator == ", " else f"{separator}and "
    return separator.join(items[:most]) + (f"{last}{more} more" if more > 0 else "")
