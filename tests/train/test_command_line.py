import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import pytest

from flaxmill.train.command_line import COMMANDS, main

TRAIN, EVALUATE = "flaxmill.train.loop", "flaxmill.train.inference.run_evaluation"


@pytest.fixture
def replaced(monkeypatch):
    """Puts a function in the place of a heavy one, since these tests are about the command line."""

    def replace(module: str, function) -> None:
        stand_in = ModuleType(module)
        setattr(stand_in, function.__name__, function)
        monkeypatch.setitem(sys.modules, module, stand_in)

    return replace


@pytest.fixture(autouse=True)
def _no_signals_are_taken(monkeypatch):
    # test_stop_signal.py tests the real one; here it would take the signals of the test run itself.
    no_signal = SimpleNamespace(leave=None, requested=False, prepares=lambda holds_checkpoint: None)
    context = contextlib.nullcontext(no_signal)
    monkeypatch.setattr("flaxmill.train.command_line.StopSignal", lambda **settings: context)


@pytest.fixture
def trained(replaced):
    """The arguments with which `train` was called."""
    calls = []

    def train(experiment, *, extend, heading, **others):
        calls.append(SimpleNamespace(experiment=experiment, extend=extend, **others))
        print(heading)
        return SimpleNamespace(preempted=False, metrics={"eval_loss": float(experiment.seed)})

    replaced(TRAIN, train)
    return calls


def one_line(result: tuple[Any, str, str]) -> str:
    """The text of a user's mistake: exit code 2, nothing on stdout, one line on stderr."""
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("flaxmill: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err.removeprefix("flaxmill: error: ").rstrip()


def test_train_without_a_name_trains_gpt_tiny(flaxmill, trained):
    code, out, _ = flaxmill("train")
    assert code == 0
    assert trained[0].experiment.name == "gpt_tiny"
    assert trained[0].extend is False
    assert out == "gpt_tiny: as configured\n"


def test_several_seeds_train_a_run_each_and_end_with_mean_and_deviation(flaxmill, trained):
    code, out, _ = flaxmill("train", "--num-seeds", "3", "--seed", "5", "--run-dir", "r")
    assert code == 0
    runs = [(call.experiment.seed, call.experiment.run_dir) for call in trained]
    assert runs == [(5, "r/seed-5"), (6, "r/seed-6"), (7, "r/seed-7")]
    assert out.endswith("3 seeds        mean  deviation\neval_loss    6.0000     1.0000\n")


def test_several_seeds_need_a_place_and_are_several(flaxmill, trained):
    bad = ((["--num-seeds", "3"], "give --run-dir"), (["--num-seeds", "1"], "must be 2 or more"))
    for flags, rule in bad:
        assert rule in one_line(flaxmill("train", *flags))
    assert trained == []


def test_train_prints_what_differs_from_the_named_config(flaxmill, trained):
    code, out, _ = flaxmill("train", "bert_tiny", "--steps", "7", "--model.num-layers", "3", "--extend")
    assert code == 0
    assert (trained[0].experiment.steps, trained[0].extend) == (7, True)
    assert out.startswith("bert_tiny: steps ")
    assert out.endswith(" -> 7, model.num_layers 2 -> 3\n")


@pytest.mark.parametrize("flag", ["--run-dir={}", "--run_dir={}", "--run-dir {}"])
def test_train_without_a_name_continues_the_config_of_its_run(flaxmill, trained, tmp_path, flag):
    from flaxmill.train.experiment import Experiment
    from flaxmill.train.run.directory import write_config

    run = tmp_path / "a_run"
    run.mkdir()
    write = lambda path: path.write_text("{}")  # noqa: E731
    tokenizer: Any = SimpleNamespace(save=write, save_settings=write)
    write_config(run, Experiment(name="mine", steps=77, seed=5, run_dir=str(run)), tokenizer)
    code, out, _ = flaxmill("train", "--steps", "80", *flag.format(run).split())
    assert code == 0
    assert out == "mine: steps 77 -> 80\n"
    assert trained[0].experiment.seed == 5
    flaxmill("train", "gpt_tiny", "--run-dir", str(run))
    assert trained[1].experiment.name == "gpt_tiny"
    flaxmill("train", "--run-dir", str(tmp_path / "fresh"))
    assert trained[2].experiment.name == "gpt_tiny"


def test_train_takes_a_file_that_defines_a_config(flaxmill, trained, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from flaxmill.train import Experiment\nconfig = Experiment(name='mine', steps=5)\n")
    assert flaxmill("train", str(path), "--seed", "4")[0] == 0
    assert (trained[0].experiment.steps, trained[0].experiment.seed) == (5, 4)


def test_preemption_exits_with_75(flaxmill, replaced):
    def train(experiment, **others):
        return SimpleNamespace(preempted=True)

    replaced(TRAIN, train)
    assert flaxmill("train")[0] == 75


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], f"no command; use one of {', '.join(COMMANDS)}"),
        (["trian"], "unknown command 'trian'; did you mean train?"),
        (["--steps", "3"], "unknown command '--steps'"),
        (["train", "gpt-tiny"], "unknown config 'gpt-tiny'; did you mean gpt_tiny? `flaxmill configs` lists"),
        (["train", "xyzzy"], "unknown config 'xyzzy'; `flaxmill configs` lists them"),
        (["train", "gone.py"], "the config file gone.py does not exist; `flaxmill configs` lists"),
        (["train", "--num-layers", "3"], "did you mean --model.num-layers?"),
        (["train", "--steps", "3", "gpt_tiny"], "unexpected 'gpt_tiny'"),
        (["train", "--model.num-heads", "3"], "model.embed_dim=128 does not divide over model.num_heads=3"),
        (["data"], "no action for `flaxmill data`; use prepare, finish, show, card or check"),
        (
            ["data", "shew"],
            "unknown action 'shew' for `flaxmill data`; use prepare, finish, show, card or check",
        ),
        (["data", "show", "--rows", "0"], "rows=0 must be at least 1"),
        (["data", "prepare", "--extend"], "unknown field --extend"),
        (["eval"], "no run given; it comes first: flaxmill eval RUN"),
        (["eval", "--json"], "no run given; it comes first: flaxmill eval RUN"),
        (["eval", "run", "--jsn"], "did you mean --json?"),
        (["configs", "x"], "unexpected 'x'"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(flaxmill, trained, arguments, text):
    assert text in one_line(flaxmill(*arguments))
    assert trained == []


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("x = 1\n", "mine.py defines no `config`; give it `config = Experiment(...)`"),
        ("config = 3\n", "mine.py has config=3; give it"),
        ("\nx = = 1\n", "mine.py:2: invalid syntax; correct the file"),
        ("import nothing_of_that_name\n", "mine.py:1: ModuleNotFoundError: No module named"),
        (
            "from flaxmill.train import Experiment\n\nconfig = Experiment(steps=0)\n",
            "mine.py:3: ValueError: steps=0 must be at least 1; correct the file",
        ),
    ],
)
def test_mistakes_in_a_config_file_name_file_and_line(flaxmill, trained, tmp_path, source, text):
    (tmp_path / "mine.py").write_text(source)
    assert text in one_line(flaxmill("train", str(tmp_path / "mine.py")))
    assert trained == []


def test_mistake_found_while_training_is_one_line_however_it_was_wrapped(flaxmill, replaced):
    # A real mistake: a run directory below a file, which was none yet when the command looked.
    from flaxmill.train.run.directory import open_run_directory

    def train(experiment, **others):
        open_run_directory(dataclasses.replace(experiment, run_dir=f"{__file__}/below"))

    replaced(TRAIN, train)
    code, _, err = flaxmill("train")
    assert code == 2
    assert err.count("\n") == 1
    assert "cannot be written (not a directory); give another --run-dir" in err


def test_a_librarys_value_error_is_a_defect_with_a_traceback(flaxmill, replaced):
    def train(experiment, **others):
        json.loads("{")

    replaced(TRAIN, train)
    code, _, err = flaxmill("train")
    assert code == 1
    assert "Traceback" in err


def test_a_value_error_inside_jax_is_a_defect_with_a_traceback(flaxmill, replaced):
    # JAX removes its own frames from tracebacks, so this one ends in what looks like a module of ours.
    step: dict[str, Any] = {"__name__": "flaxmill.train.step"}
    exec("import jax\n@jax.jit\ndef step(x): return jax.numpy.broadcast_to(x, (2,))", step)

    def train(experiment, **others):
        step["step"](jax.numpy.ones(3))

    replaced(TRAIN, train)
    code, _, err = flaxmill("train")
    assert code == 1
    assert "Traceback" in err
    assert "ValueError" in err


def test_other_errors_pass_through(replaced):
    def train(experiment, **others):
        raise RuntimeError("a defect")

    replaced(TRAIN, train)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["train"])


@pytest.fixture
def a_run(tmp_path):
    """A directory that looks like a run until it is read."""
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_interrupt_is_one_line(flaxmill, replaced, a_run):
    def evaluate_run(run_dir, other, mesh, output, lengths):
        raise KeyboardInterrupt

    replaced(EVALUATE, evaluate_run)
    assert flaxmill("eval", a_run) == (130, "", "flaxmill: interrupted\n")


def test_eval_prints_a_table_or_one_json_object(flaxmill, replaced, a_run):
    calls = []

    def evaluate_run(run_dir, other, mesh, output, lengths):
        calls.append((str(run_dir), other and tuple(other)))
        return {"step": 1200, "eval_loss": 4.5, "bits_per_byte": float("nan")}

    replaced(EVALUATE, evaluate_run)
    assert flaxmill("eval", a_run) == (
        0,
        "step           1,200\neval_loss      4.5000\nbits_per_byte  nan\n",
        "",
    )
    code, out, _ = flaxmill("eval", a_run, "--json", "--data", "a.txt")
    assert code == 0
    assert json.loads(out) == {"step": 1200, "eval_loss": 4.5, "bits_per_byte": None}
    assert calls == [(str(a_run), None), (str(a_run), ("a.txt", {}, False))]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], [*COMMANDS, "Exit codes"]),
        (["train", "--help"], ["--extend", "--model.num-layers", "gpt_tiny", "[CONFIG | FILE.py]"]),
        (["train", "bert_tiny", "--help"], ["(default: post)", "(default: 0.1)"]),
        (["data", "--help"], ["prepare", "show"]),
        (["data", "show", "--help"], ["--step INT", "--rows INT", "--data.files STR"]),
        (["data", "prepare", "--help"], ["--data.tokenizer STR"]),
        (["eval", "--help"], ["RUN", "--data", "--json"]),
        (["configs", "--help"], ["Lists the experiments"]),
    ],
)
def test_help_explains_each_command(flaxmill, arguments, words):
    code, out, err = flaxmill(*arguments)
    assert (code, err) == (0, "")
    assert [word for word in words if word not in out] == []


def test_configs_lists_names_and_purposes(flaxmill):
    code, out, _ = flaxmill("configs")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == sorted(
        line.split()[0] for line in out.splitlines()
    )
    assert re.search(r"^gpt_tiny +A small GPT on the documentation", out, re.MULTILINE)


def test_version_is_that_of_the_package(flaxmill):
    code, out, _ = flaxmill("--version")
    assert code == 0
    assert out.startswith("flaxmill 0.")


def command_of(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from flaxmill.train.command_line import main; main()", *arguments]


TELL_OF_JAX = """
import sys
from flaxmill.train.command_line import main
try: main(sys.argv[1:])
finally: print("jax" in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["configs"], 0),
        (["train", "--help"], 0),
        (["train", "gpt_tny"], 2),
        (["train", "--num-layers", "4"], 2),
        (["train", "--steps", "0"], 2),
        (["train", "--heartbeat-seconds", "0"], 2),
        (["train", "--num-processes", "2"], 2),
        (["train", "--data.files", "missing.txt"], 2),
        (["train", "classify", "--data.files", "missing.csv"], 2),
        (["train", "--mesh.data", "1000"], 2),
        (["train", "--trackers", "wandb"], 2),
        (["train", "--model.max-positions", "8"], 2),
        (["train", "--run-dir", "/dev/null/run"], 2),
        (["data", "show", "--rows", "0"], 2),
        (["checkpoints", "MISSING"], 2),
        (["eval", "MISSING"], 2),
        (["export", "MISSING", "x"], 2),
        (["generate", "MISSING", "hi"], 2),
        (["import", "MISSING", "x"], 2),
        (["parity", "MISSING"], 2),
        (["verify-resume", "gpt_tny"], 2),
    ],
)
def test_help_and_what_can_be_refused_without_jax_does_not_wait_for_it(arguments, code, tmp_path):
    command = [sys.executable, "-c", TELL_OF_JAX, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == "False"
    assert done.stderr.count("\n") == (1 if code == 0 else 2)


def test_a_reader_that_leaves_early_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            command_of("configs"), stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
