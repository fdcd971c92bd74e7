"""An error that ends a command is one line that a terminal shows, whatever files it quotes."""

import json

import pytest

from flaxmill.train.command_line import Outcome, outcome_of
from flaxmill.train.failures import CheckpointError


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x='\x1b[2J\ud83d'", "x='\\x1b[2J\\ud83d'"),
        ("two\nlines\u2028of Ünïcode", "two lines of Ünïcode"),
        ("x=" + "a" * 5000 + " must be 1", "x=" + "a" * 998 + " ... " + "a" * 990 + " must be 1"),
        ("", "OSError"),
    ],
)
def test_a_line_is_one_that_a_terminal_shows_whatever_it_quotes(text, line):
    assert outcome_of(OSError(text)) == Outcome(1, f"flaxmill: error: {line}")


def test_outcomes_are_what_the_command_ends_with():
    assert outcome_of(CheckpointError("gone")) == Outcome(1, "flaxmill: error: gone")
    assert outcome_of(OSError("full")) == Outcome(1, "flaxmill: error: full")
    assert outcome_of(KeyboardInterrupt()) == Outcome(130, "flaxmill: interrupted")
    assert outcome_of(KeyError("a")) is None
    assert outcome_of(json.JSONDecodeError("a", "b", 0)) is None
