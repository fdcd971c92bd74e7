"""What a check finds: a line of a report."""

from typing import Literal, NamedTuple

State = Literal["ok", "remark", "wrong"]


class Finding(NamedTuple):
    """One line.

    Attributes:
      check: the family of checks that it belongs to, such as "disk".
      state: wrong: something will fail or mislead; remark: something to know of; ok: neither.
      what: what was found.
      fix: what to do; None: nothing.
    """

    check: str
    state: State
    what: str
    fix: str | None = None


def with_fix(check: str, state: State, text: str) -> Finding:
    """A refusal, in which the fix follows the first semicolon, as a finding."""
    what, _, fix = text.partition("; ")
    return Finding(check, state, what, fix or None)


def listed(words: list[str], most: int = 6) -> str:
    """The words in a sentence; the rest of a long list as a number."""
    rest = len(words) - most
    return ", ".join(words[:most]) + (f" and {rest} more" if rest > 0 else "")
