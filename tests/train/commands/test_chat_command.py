"""`flaxmill chat` answers the lines of a pipe, in the terminal, and until it is interrupted."""

import io
import shutil
import signal
import sys
from typing import Any

import pytest
import small_llama

from flaxmill.train.commands.chat_command import talk


class Lines(io.StringIO):
    """What is typed, at a terminal or not."""

    def __init__(self, text, is_terminal=False):
        super().__init__(text)
        self.isatty = lambda: is_terminal


class Echo:
    """A conversation that says what it hears, a word at a time."""

    def __init__(self):
        self.num_dropped, self.heard = 0, []

    def reset(self):
        self.heard.clear()

    def answer(self, said):
        if said == "long":
            raise ValueError("the message is too long; shorten it")
        self.heard.append(said)
        self.num_dropped += 2 * (said == "full")
        for word in said.split():
            for _ in range({"stop": 1, "twice": 2}.get(word, 0)):
                signal.raise_signal(signal.SIGINT)
            yield word


def hear(monkeypatch, capsys, text, is_terminal=False):
    monkeypatch.setattr(sys, "stdin", Lines(text, is_terminal))
    echo: Any = Echo()
    talk(echo)
    return echo, *capsys.readouterr()


def test_each_line_of_a_pipe_has_its_answer_on_stdout_alone(monkeypatch, capsys):
    assert hear(monkeypatch, capsys, "one two\n\n  three \nfour")[1:] == ("onetwo\nthree\nfour\n", "")


def test_commands_reset_and_end_the_conversation(monkeypatch, capsys):
    echo, out, _ = hear(monkeypatch, capsys, "one\n/reset\ntwo\n/exit\nthree\n")
    assert (echo.heard, out) == (["two"], "one\ntwo\n")


def test_a_terminal_is_asked_and_may_correct_a_message(monkeypatch, capsys):
    _, out, err = hear(monkeypatch, capsys, "long\nshort\n", is_terminal=True)
    assert (out, err) == ("short\n", "> flaxmill: the message is too long; shorten it\n> > \n")
    with pytest.raises(ValueError, match="too long"):
        hear(monkeypatch, capsys, "long\nshort\n")


def test_an_interrupt_ends_the_answer_and_a_second_one_the_command(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGINT)
    _, out, _ = hear(monkeypatch, capsys, "a stop b c\nd\n")
    assert out == "astop\nd\n"
    with pytest.raises(KeyboardInterrupt):
        hear(monkeypatch, capsys, "a twice b\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_dropped_turns_are_said(monkeypatch, capsys):
    *_, err = hear(monkeypatch, capsys, "full\nmore\n")
    assert err == "flaxmill: the context is full: the oldest 2 messages are no longer read\n"


@pytest.mark.slow
def test_a_directory_with_a_template_talks_and_one_without_is_refused(flaxmill, monkeypatch, tmp_path):
    path = shutil.copytree(small_llama.directory(), tmp_path / "llama")
    monkeypatch.setattr(sys, "stdin", Lines("a grey\n"))
    code, out, err = flaxmill("chat", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "has no chat template" in err
    small_llama.give_template(path)
    for flag in ("--max-new-tokens", "--max-tokens"):
        monkeypatch.setattr(sys, "stdin", Lines("a grey\n/reset\na grey cat\n"))
        assert flaxmill("chat", path, flag, 2) == (0, "cat sleeps\nsleeps all\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MODEL come first, none given: flaxmill chat MODEL"),
        (["nothing"], "nothing is neither a run nor a Hugging Face model"),
        (["m", "--num-samples", "2", "--temperature", "1"], "num_samples=2 gives several texts"),
        (["m", "--num-beams", "2"], "num_beams=2 gives several texts"),
        (["m", "--temprature", "1"], "did you mean --temperature"),
    ],
)
def test_mistakes_are_one_line(arguments, message, flaxmill):
    code, out, err = flaxmill("chat", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
