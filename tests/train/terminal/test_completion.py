"""Shells complete every command, action and flag."""

import shutil
import subprocess

import pytest

from flaxmill.train import command_line
from flaxmill.train.terminal.completion import ARGUMENTS, SHELLS, run, script

COMPLETE = """source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tyro_flaxmill
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "flaxmill"
    path.write_text(script("bash"))
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (("train", "--optimizer.lea"), {"--optimizer.learning-rate"}),
        (("train", "gpt_tiny", "--steps", "3", "--eval"), {"--eval-every", "--eval-batches"}),
        (("train", "--optimizer.name", "ada"), {"adamw", "adafactor"}),
        (("data", "sh"), {"show"}),
        (("tokenizer", "train", "--vocab"), {"--vocab-size"}),
        (("verify-resume", "--num-s"), {"--num-steps"}),
        (("pla",), {"plan"}),
    ],
)
def test_bash_completes(bash_script, typed, completed):
    shell = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", str(bash_script), "flaxmill", *typed],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(shell.stdout.split()) == completed


def test_every_command_is_completed():
    assert set(ARGUMENTS) == set(command_line.COMMANDS) - {"completion"}


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script(shell, capsys):
    run([shell])
    printed = capsys.readouterr().out
    assert "flaxmill" in printed
    assert "optimizer.learning-rate" in printed


@pytest.mark.parametrize("given", [[], ["bsh"], ["bash", "zsh"]])
def test_another_shell_is_refused(given, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main(["completion", *given])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("flaxmill: error: flaxmill completion takes the name of a shell, not ")
    assert error.endswith("use one of bash, zsh, fish\n")
    assert error.count("\n") == 1
