"""A file is first read in a child process, so a library that crashes or hangs harms only the child."""

import os
import sys
from pathlib import Path

import pytest

from flaxmill.data.tokenizer import trials
from flaxmill.data.tokenizer.trials import try_reading

PROGRAM = """
import ctypes, os, signal, sys, time
from flaxmill.data.tokenizer import trials
def read(path):
    print("a library says this", file=sys.stderr)
    exec(path.read_text())
trials.SECONDS = 1
trials.trial(read)
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Runs a Python file in a trial; returns the reason that it cannot be read, or None."""
    (tmp_path / "a_trial.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(trials, "SECONDS", 1)

    def run(text: str) -> str | None:
        (file := tmp_path / "file").write_text(text)
        return try_reading("a_trial", file)

    return run


def test_a_file_that_can_be_read_has_no_reason(read, capfd):
    assert read("pass") is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise ValueError('it is\\n none')", "it is none"),
        ("raise KeyError", "KeyError"),
        ("raise BaseException('of Rust')", "of Rust"),
        ("os.abort()", "the library that reads it crashes by SIGABRT"),
        ("ctypes.string_at(0)", "the library that reads it crashes by SIGSEGV"),
        ("while True: pass", "it takes more than 1 s to read it and a line of text"),
        ("b'x' * (3 << 30)", "it takes more than 2 GB of memory to read it and a line of text"),
        ("os.write(2, b'memory allocation of 9 bytes failed'); os.abort()", trials._TOO_LARGE),
    ],
)
def test_what_would_end_the_process_is_a_reason(read, text, reason, capfd):
    assert read(text) == reason
    assert capfd.readouterr() == ("", "")


def test_a_library_that_sleeps_is_left_after_a_while(read, monkeypatch):
    monkeypatch.setattr(trials, "_PATIENCE", 0.5)
    assert "takes more than 0.5 s" in str(read("time.sleep(60)"))


def test_a_state_of_a_file_is_tried_once(read, tmp_path):
    text = f"open({str(tmp_path / 'tried')!r}, 'a').write('x')"
    assert (read(text), try_reading("a_trial", tmp_path / "file")) == (None, None)
    assert (tmp_path / "tried").read_text() == "x"
    read(f"{text}; raise ValueError('changed')")
    assert (tmp_path / "tried").read_text() == "xx"


def test_files_beside_it_belong_to_its_state(read, tmp_path):
    read(f"open({str(tmp_path / 'tried')!r}, 'a').write('x')")
    beside = tmp_path / "beside"
    for _ in range(2):
        try_reading("a_trial", tmp_path / "file", (beside,))
    beside.write_text("")
    try_reading("a_trial", tmp_path / "file", (beside,))
    assert (tmp_path / "tried").read_text() == "xxx"


@pytest.mark.parametrize("executable", ["", None, "/nowhere/python", os.devnull])
def test_without_processes_the_file_is_read_as_it_is(read, executable, monkeypatch):
    monkeypatch.setattr(sys, "executable", executable)
    assert read("raise ValueError") is None


def test_a_signal_that_is_meant_for_the_command_is_no_crash(read):
    assert read("os.kill(os.getpid(), signal.SIGTERM)") is None
    assert read("assert os.getsid(0) == os.getpid()") is None  # Ctrl-C does not reach it


def test_what_stands_beside_the_file_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "tokenizers.py").write_text("raise SystemExit('mine')")
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    monkeypatch.chdir(tmp_path)
    reason = try_reading("flaxmill.data.tokenizer.trial", Path("vocab.txt"))
    assert "the vocabulary of 1 lines lacks [UNK]" in str(reason)


def test_seconds_grow_with_the_file(tmp_path):
    (large := Path(tmp_path / "large")).write_bytes(b"x" * 3_000_000)
    assert trials._seconds(large) == trials.SECONDS + 3
