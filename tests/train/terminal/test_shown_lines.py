"""Lines have colours on a terminal that wants them, and no escapes anywhere else."""

import io
import re

import pytest

from flaxmill.data.show import Span
from flaxmill.train.terminal.shown_lines import print_lines

LINES = [
    (Span("row 0", "title"),),
    (),
    (Span("a [b] ", "text"), Span("[MASK]", "masked"), Span("'d'", "target")),
]
PLAIN = "row 0\n\na [b] [MASK]'d'\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def printed(monkeypatch):
    """What is printed to a stream with these environment variables."""

    def show(stream: io.StringIO, **variables: str) -> str:
        for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.stdout", stream)
        print_lines(LINES)
        return stream.getvalue()

    return show


def test_a_terminal_shows_colours_and_what_they_mean(printed):
    text = printed(Terminal(), TERM="xterm")
    assert "\x1b[" in text
    legend, rest = re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n", 1)
    assert legend.split("  ") == ["masked", "what is predicted", ""]
    assert rest == PLAIN


@pytest.mark.parametrize(
    ("stream", "variables"),
    [
        (Terminal, {"NO_COLOR": "1", "TERM": "xterm"}),
        (Terminal, {"TERM": "dumb"}),
        (io.StringIO, {"TERM": "xterm"}),
        (io.StringIO, {"FORCE_COLOR": "1"}),
    ],
)
def test_text_is_plain_elsewhere(stream, variables, printed):
    assert printed(stream(), **variables) == PLAIN


def test_an_empty_no_color_counts_as_unset(printed):
    assert "\x1b[" in printed(Terminal(), NO_COLOR="", TERM="xterm")
