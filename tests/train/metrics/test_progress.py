"""What a person sees while a run trains."""

import pytest

from flaxmill.train.metrics import progress
from flaxmill.train.metrics.progress import ProgressLine, short_number

METRICS = {"loss": 3.14159, "tokens_per_second": 12_345.0}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1234, "1.23k"), (1_234_567, "1.23M"), (8.03e9, "8.03B"), (-1500, "-1.5k")],
)
def test_numbers_are_shortened_to_three_digits(value, text):
    assert short_number(value) == text


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_tells_loss_rate_and_time_left(clock, capsys):
    with ProgressLine(10, 110) as line:
        clock[0] += 20.0
        line.update(20, METRICS, line=True)
    # 10 steps took 20 s, 90 are left
    assert capsys.readouterr().out == "step 20/110  loss 3.142  12.3k tokens/s  3:00 left\n"


def test_utilisation_is_shown_where_it_is_known(clock, capsys):
    with ProgressLine(0, 10) as line:
        clock[0] += 6.0
        line.update(1, METRICS | {"mfu": 0.4567}, line=True)
    assert "MFU 45.7%" in capsys.readouterr().out


def test_lines_off_a_terminal_are_seconds_apart_but_the_last_step_is_always_told(clock, capsys):
    with ProgressLine(0, 10) as line:
        for done in range(1, 11):
            clock[0] += 2.0
            line.update(done, METRICS, line=True)
    told = [text.split("/")[0] for text in capsys.readouterr().out.splitlines()]
    assert told == ["step 3", "step 6", "step 9", "step 10"]


def test_metrics_that_are_not_fit_to_print_are_not_printed(clock, capsys):
    with ProgressLine(0, 10) as line:
        clock[0] += 100.0
        line.update(5, METRICS, line=False)
    assert capsys.readouterr().out == ""


def test_the_time_left_is_told_once_a_step_was_timed(clock, capsys):
    """The first step compiles: it says nothing about the others, and no time left must be shown."""
    with ProgressLine(0, 10) as line:
        for done in (1, 2):
            clock[0] += 6.0
            line.update(done, METRICS, line=True)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "step 1/10  loss 3.142  12.3k tokens/s"
    assert second.endswith("0:48 left")


def test_hours_are_told_as_hours(clock, capsys):
    with ProgressLine(0, 1002) as line:
        for done in (1, 2):
            clock[0] += 10.0
            line.update(done, METRICS, line=True)
    assert "2:46:40 left" in capsys.readouterr().out.splitlines()[-1]


def test_what_is_said_is_printed_as_it_is(capsys):
    with ProgressLine(0, 10) as line:
        line.say("a [bracketed] text " + "x" * 200)
    assert capsys.readouterr().out == "a [bracketed] text " + "x" * 200 + "\n"


def test_a_quiet_line_says_nothing(clock, capsys):
    with ProgressLine(0, 1, quiet=True) as line:
        line.say("hello")
        clock[0] += 100.0
        line.update(1, METRICS, line=True)
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_live_line(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressLine(2, 8) as line:
        line.update(5, METRICS, line=False)
        line.say("between")
    shown = capsys.readouterr().out
    assert "5/8" in shown
    assert "loss 3.142" in shown
    assert "between" in shown
