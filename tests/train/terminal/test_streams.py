"""Streams of any encoding, closed, full or without a reader, in processes of their own."""

import os
import pty
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = "from flaxmill.train.command_line import main; main(['configs'])"
SAYING = """
import sys
from typing import Any
from flaxmill.train import command_line
def say(*arguments):
    print({text!r})
    print({text!r}, file=sys.stderr)
    return 0
command_line._run_command = say
command_line.main([])
"""


def run(program: str, **settings: Any) -> subprocess.CompletedProcess:
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings}
    return subprocess.run([sys.executable, "-c", program], check=False, **settings)


@pytest.mark.parametrize(
    ("encoding", "text", "printed"),
    [
        ("latin-1", "é 😀", b"\xe9 \\U0001f600\n"),
        ("ascii", "é 😀", b"\\xe9 \\U0001f600\n"),
        ("utf-8", "é \ud83d", b"\xc3\xa9 \\ud83d\n"),
        ("utf-8:surrogateescape", "\udcff \ud83d", b"\\udcff \\ud83d\n"),
        ("ascii:replace", "é", b"?\n"),
    ],
)
def test_what_an_encoding_lacks_is_escaped(encoding, text, printed):
    done = run(SAYING.format(text=text), env=os.environ | {"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stdout) == (0, printed)
    assert done.stderr == (printed if ":replace" not in encoding else b"\\xe9\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_changes_nothing(unbuffered):
    """A run that prints all day must not end because `head` did."""
    program = "import sys; from flaxmill.train.terminal.streams import take_streams; take_streams()\n"
    program += "for number in range(100_000): print(number)\nprint('done', file=sys.stderr)"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = run(program, stdout=closed, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    assert (done.returncode, done.stderr) == (0, b"done\n")


def test_a_terminal_that_has_gone_changes_nothing():
    ours, theirs = pty.openpty()
    os.close(ours)
    with os.fdopen(theirs, "w", closefd=True) as gone:
        done = run(PROGRAM, stdout=gone, stderr=gone)
    assert done.returncode == 0


@pytest.mark.parametrize("closed", [1, 2])
def test_a_stream_that_was_never_open_changes_nothing(closed):
    command = ["sh", "-c", f'exec "$0" "$@" {closed}>&-', sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0
    assert (b"gpt_tiny" in done.stdout) is (closed == 2)
    assert done.stderr == b""


def test_what_a_full_disk_has_lost_is_said():
    with open("/dev/full", "w") as full:
        done = run(PROGRAM, stdout=full)
    assert done.returncode == 1
    assert done.stderr == b"flaxmill: error: stdout could not be written (No space left on device)\n"


def test_a_full_disk_under_stderr_changes_no_exit_code():
    with open("/dev/full", "w") as full:
        done = run(PROGRAM.replace("['configs']", "['confgis']"), stderr=full)
    assert done.returncode == 2


LOGGING = """
import logging
from flaxmill.train import command_line
def warn(*arguments):
    logging.getLogger("flaxmill.weights").warning("tensors of %s are not used", "mlm")
    logging.warning("a library sets up logging")
    logging.getLogger("flaxmill.weights").warning("tensors of %s are not used", "nsp")
    logging.getLogger("flaxmill.weights").info("nobody asked")
    return 0
command_line._run_command = warn
command_line.main([])
"""


def test_warnings_of_loggers_are_plain_lines_whatever_libraries_set_up():
    assert run(LOGGING).stderr.decode().splitlines() == [
        "flaxmill: warning: tensors of mlm are not used",
        "root: a library sets up logging",
        "flaxmill: warning: tensors of nsp are not used",
    ]
