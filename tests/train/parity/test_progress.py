"""`flaxmill parity` is silent while it is quick, and says what it does once it is not."""

import time

import pytest

from flaxmill.train.parity import progress as parity_progress
from flaxmill.train.parity.progress import Progress


def test_what_is_quick_is_done_in_silence(capsys: pytest.CaptureFixture[str]):
    with Progress() as progress:
        progress("comparison 1 of 2")
        progress("comparison 2 of 2")
    assert capsys.readouterr().err == ""


def test_what_takes_longer_is_said_from_where_it_stands_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(parity_progress, "SECONDS_IN_SILENCE", 0.1)
    with Progress() as progress:
        progress("comparison 1 of 3")
        progress("comparison 2 of 3")
        time.sleep(0.5)
        progress("comparison 3 of 3")
    printed, errors = capsys.readouterr()
    assert errors.splitlines() == ["flaxmill: comparison 2 of 3", "flaxmill: comparison 3 of 3"]
    assert printed == ""
    time.sleep(0.2)
    assert capsys.readouterr().err == "", "nothing is said after the end"
