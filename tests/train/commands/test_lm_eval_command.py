"""`flaxmill lm-eval`: mistakes are one line, before the model or the harness is loaded."""

import importlib.util

import pytest
from random_models import causal_directory

from flaxmill.train.commands import lm_eval_command
from flaxmill.train.commands.lm_eval_command import run as lm_eval


def test_help_says_what_is_passed_on(flaxmill):
    code, out, _ = flaxmill("lm-eval", "--help")
    assert code == 0
    assert out.startswith("usage: flaxmill lm-eval MODEL ARGS...\n")
    assert "--batch_size is 16 unless given" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "MODEL comes first, none given: flaxmill lm-eval MODEL ARGS..."),
        (["--tasks", "x"], "MODEL comes before --tasks: flaxmill lm-eval MODEL ARGS..."),
        (["/nowhere", "--tasks", "x"], "/nowhere is neither a run nor a Hugging Face model"),
        (["m", "--model", "hf"], "--model is not passed on: MODEL is the model; leave it out"),
        (["m", "--model_args=x=1"], "--model_args=x=1 is not passed on: MODEL is the model; leave it out"),
        (["m", "--apply_chat_template"], "--apply_chat_template is not passed on: chat templates are not"),
        (["m", "--device", "cuda"], "--device is not passed on: JAX_PLATFORMS chooses where to compute"),
        (["m", "--batch_size", "0"], "--batch_size=0 must be a number from 1, or auto"),
        (["m", "-b"], "--batch_size= must be a number from 1, or auto"),
    ],
)
def test_a_mistake_is_one_line(flaxmill, arguments, line):
    code, out, err = flaxmill("lm-eval", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"flaxmill: error: {line}")
    assert err.count("\n") == 1


def test_a_harness_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^lm-eval is not installed; pip install 'flaxmill\[lm-eval\]'$"):
        lm_eval([str(causal_directory()), "--tasks", "x"])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], 16),
        (["--batch_size", "3"], 3),
        (["--tasks", "x", "-b", "4", "--limit", "2"], 4),
        (["--batch_size=5"], 5),
        (["--batch_size", "auto"], 16),
        (["--batch_size", "auto:4"], 16),
        (["--batch_size", "3", "-b", "4"], 4),
    ],
)
def test_the_batch_size_is_read(flags, expected):
    assert lm_eval_command._batch_size(flags) == expected
