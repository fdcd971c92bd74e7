"""What is compiled ahead is what the run calls, changes nothing, and holds nothing up."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import pytest
from launching import step_rows

from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.compilation import ahead
from flaxmill.train.compilation.ahead import Ahead
from flaxmill.train.loop import train

pytestmark = pytest.mark.slow  # it compiles many models

PROGRAMS = {f"jit({name})" for name in ("init", "train_step", "_digest_all", "eval_step")}
SAMPLE = {f"jit({name})" for name in ("start", "continue_decoding")}
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compiled():
    """(program, whether in the main thread) for each program that was compiled or read from the cache."""
    found = []

    def hear(event: str, duration_secs: float, **said) -> None:
        if event == COMPILED:
            found.append((said["fun_name"], threading.current_thread() is threading.main_thread()))

    jax.monitoring.register_event_duration_secs_listener(hear)
    yield found
    jax.monitoring.unregister_event_duration_listener(hear)


@pytest.mark.parametrize("objective", ["causal", "mlm_nsp"])
@pytest.mark.parametrize("mesh", [MeshConfig(data=1), MeshConfig(data=2, fsdp=2, tensor=2)])
def test_a_run_compiles_each_program_once_and_ahead(objective, mesh, make_experiment, compiled):
    train(make_experiment(objective, steps=2, eval_batches=1, mesh=mesh))
    # A sample is split among devices in a way that is known only once its first token is there.
    programs = PROGRAMS | SAMPLE if objective == "causal" and mesh == MeshConfig(data=1) else PROGRAMS
    assert sorted(one for one in compiled if one[0] in programs) == sorted((name, False) for name in programs)


def test_a_run_that_continues_draws_no_weights(make_experiment, compiled):
    first = train(make_experiment(steps=2, eval_batches=1))
    compiled.clear()
    continued = make_experiment(steps=3, eval_batches=1, run_dir=str(first.directory))
    assert train(continued, extend=True).step == 3
    names = [name for name, _ in compiled if name in PROGRAMS]
    assert sorted(names) == ["jit(eval_step)", "jit(train_step)"]  # digests are as in the first run


def test_what_the_first_step_does_not_need_is_compiled_once_it_is_made_or_waited_for():
    mesh, compiled = make_mesh(MeshConfig(data=1)), []
    with Ahead() as ahead:
        ahead.begin_later("first", lambda: compiled.append("first"), mesh)
        time.sleep(0.1)
        assert compiled == []
        ahead.wait_for("first")
        assert compiled == ["first"]
        ahead.begin_later("second", lambda: compiled.append("second"), mesh)
        ahead.begin_rest()
        ahead.begin_rest()
        ahead.wait_for("second")
        assert compiled == ["first", "second"]


def test_weights_from_elsewhere_do_not_hold_up_the_step(make_experiment, compiled, tmp_path):
    source = train(make_experiment(steps=1, eval_batches=1, run_dir=str(tmp_path / "source")))
    compiled.clear()
    jax.clear_caches()
    train(make_experiment(steps=1, eval_batches=1, init_from=str(source.directory)))
    ahead_of_call = [name for name, is_main in compiled if not is_main]
    assert ahead_of_call[0] == "jit(train_step)"


def rows_of(experiment):
    return step_rows(train(experiment).directory)


def test_a_vocabulary_smaller_than_expected_changes_no_value(make_experiment, tmp_path, monkeypatch):
    text = tmp_path / "small.txt"
    text.write_text("\n\n".join(f"the cat sat on the mat {number}" for number in range(400)))
    experiment = make_experiment(steps=2, eval_batches=1)
    data = dataclasses.replace(experiment.data, files=(str(text),), vocab_size=2000)
    experiment = dataclasses.replace(experiment, data=data)
    found = rows_of(dataclasses.replace(experiment, run_dir=str(tmp_path / "ahead")))
    monkeypatch.setattr(Ahead, "expect", lambda self, *arguments, **named: None)
    expected = rows_of(dataclasses.replace(experiment, run_dir=str(tmp_path / "late")))
    assert [row["loss"] for row in found] == [row["loss"] for row in expected]


def test_what_fails_to_compile_ahead_is_compiled_when_it_is_called(make_experiment, monkeypatch):
    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(ahead, "compile_train_step", fail)
    assert train(make_experiment(steps=2, eval_batches=1)).step == 2


def test_an_error_in_the_step_is_raised_by_the_run(make_experiment, monkeypatch):
    def fail(*arguments):
        raise TypeError("this loss cannot be computed")

    monkeypatch.setattr("flaxmill.train.step.combine", fail)
    with pytest.raises(TypeError, match="this loss cannot be computed"):
        train(make_experiment(steps=2))


# A compiler that takes as long as one for a large model does, and data that are refused, or take as long.
SLOW = """
import time
from flaxmill.train import job
from flaxmill.train.command_line import main
from flaxmill.train.compilation import ahead

ahead.compile_init = lambda *arguments: time.sleep(60)

def prepare(*arguments):
    time.sleep(1)
    print("preparing", flush=True)
    {then}

job.prepare_data = prepare
main()
"""


def start(tmp_path, then: str) -> subprocess.Popen:
    command = [sys.executable, "-c", SLOW.format(then=then), "train", "--run-dir", str(tmp_path / "run")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"XLA_FLAGS": ""}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "preparing\n"
    return process


def test_a_refusal_does_not_wait_for_the_compiler(tmp_path):
    process = start(tmp_path, "raise OSError('the text is gone')")
    began = time.monotonic()
    _, complaint = process.communicate(timeout=50)
    assert time.monotonic() - began < 20
    assert process.returncode == 1
    assert complaint == "flaxmill: error: the text is gone\n"


def test_a_signal_does_not_wait_for_the_compiler(tmp_path):
    process = start(tmp_path, "time.sleep(60)")
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    process.communicate(timeout=50)
    assert time.monotonic() - began < 20
    assert process.returncode == 128 + signal.SIGTERM


def test_steps_that_the_data_decide_do_not_compile_the_step_again(make_experiment, compiled):
    train(make_experiment(epochs=1e-9, eval_batches=1))
    assert [name for name, _ in compiled].count("jit(train_step)") == 1
