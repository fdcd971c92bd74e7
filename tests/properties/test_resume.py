"""A run that was interrupted and started again equals an uninterrupted one, bit for bit."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from flaxmill.train import train
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig
from flaxmill.train.metrics.metrics_file import read_metrics

pytestmark = pytest.mark.slow

STEPS = 40
CONFIG = """
from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.optimizer.optimizers import OptimizerConfig

config = Experiment(
    name="interrupted",
    objective={objective!r},
    steps={steps},
    batch_size=32,
    log_every=1,
    eval_batches=1,
    model=ModelConfig(num_layers=2, embed_dim=64, num_heads=4, dropout=0.1, **{family}),
    data=DataConfig(
        files=({corpus!r},),
        documents="blank_lines",
        tokenizer={tokenizer!r},
        vocab_size=400,
        sequence_length=64,
    ),
    mesh=MeshConfig(data=1),
    optimizer=OptimizerConfig(learning_rate=3e-3),
    checkpoint=CheckpointConfig(every=10),
)
"""
BERT = dict(norm_position="post", embedding_norm=True, num_segments=2, initializer="bert")


def command(config, run_dir, *flags):
    program = "from flaxmill.train.command_line import main; main()"
    return [sys.executable, "-c", program, "train", str(config), "--run-dir", str(run_dir), *flags]


def shipped_environment():
    """A user's environment, where XLA optimises fully: the runs that users make must be equal."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


def finish(config, run_dir, *flags):
    """Run the command to its end."""
    done = subprocess.run(
        command(config, run_dir, *flags), capture_output=True, text=True, env=shipped_environment()
    )
    assert done.returncode == 0, done.stderr


def interrupt(config, run_dir, number, after):
    """Run the command, signal it once metrics.jsonl has the row of step `after`, return its exit code."""
    metrics = run_dir / "metrics.jsonl"
    process = subprocess.Popen(
        command(config, run_dir),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=shipped_environment(),
    )
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") > after):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(number)
    process.communicate()
    return process.returncode


def values_of(run_dir):
    """[(step, loss, grad_norm, num_tokens)] of every row, in the order written."""
    rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if "loss" in row]
    return [(row["step"], row["loss"], row["grad_norm"], row["num_tokens"]) for row in rows]


@pytest.fixture(scope="module", params=["causal", "mlm_nsp"])
def config(request, corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "interrupted.py"
    is_bert = request.param == "mlm_nsp"
    path.write_text(
        CONFIG.format(
            objective=request.param,
            steps=STEPS,
            family=BERT if is_bert else {},
            corpus=str(corpus),
            tokenizer="wordpiece" if is_bert else "bpe",
        )
    )
    return path


@pytest.fixture(scope="module")
def straight(config):
    """The rows of a run that nothing interrupted, checked for completeness."""
    run_dir = config.parent / "straight"
    finish(config, run_dir)
    values = values_of(run_dir)
    assert [step for step, *_ in values] == list(range(STEPS))
    return values


@pytest.fixture(scope="module")
def preempted(config, straight):
    """A directory whose run was stopped by SIGTERM near step 20."""
    run_dir = config.parent / "preempted"
    assert interrupt(config, run_dir, signal.SIGTERM, after=19) == 75
    steps = [step for step, *_ in values_of(run_dir)]
    assert steps == list(range(len(steps)))
    assert 20 <= len(steps) < STEPS
    saved = [path.name for path in (run_dir / "checkpoints").iterdir()]
    assert str(len(steps)) in saved
    return run_dir


def test_a_run_stopped_by_sigterm_and_given_again_equals_the_straight_one(
    config, straight, preempted, tmp_path
):
    run_dir = shutil.copytree(preempted, tmp_path / "again")
    finish(config, run_dir)
    assert values_of(run_dir) == straight


def test_a_run_whose_minutes_are_over_saves_and_given_again_equals_the_straight_one(
    config, straight, tmp_path
):
    """They are over before its first step, which it makes nevertheless: else it would never come further."""
    done = subprocess.run(
        command(config, tmp_path, "--minutes", "0.0001"),
        capture_output=True,
        text=True,
        env=shipped_environment(),
    )
    assert done.returncode == 75
    assert "flaxmill: 0.0001 minutes have passed: saving and stopping after the first step" in done.stderr
    assert values_of(tmp_path) == straight[:1]
    finish(config, tmp_path, "--minutes", "600")
    assert values_of(tmp_path) == straight


def test_a_run_continued_on_another_mesh_agrees_with_the_straight_one(config, straight, preempted, tmp_path):
    run_dir = shutil.copytree(preempted, tmp_path / "elsewhere")
    finish(config, run_dir, "--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2")
    # Sums over devices come in another order: float32 rounding, carried through some 20 updates.
    np.testing.assert_allclose(values_of(run_dir), straight, rtol=1e-5)


def test_a_killed_run_given_again_equals_the_straight_one_also_where_rows_repeat(config, straight, tmp_path):
    run_dir = tmp_path / "killed"
    assert interrupt(config, run_dir, signal.SIGKILL, after=22) == -signal.SIGKILL
    killed_after = len(values_of(run_dir))
    finish(config, run_dir)
    values = values_of(run_dir)
    repeated = values[killed_after][0]
    assert 10 <= repeated < killed_after  # it went on from a checkpoint, below the last row written
    assert values[:killed_after] == straight[:killed_after]
    assert values[killed_after:] == straight[repeated:]


@pytest.mark.parametrize("stops", [[5], [4], [1, 1, 2], [8]], ids=str)
def test_a_run_stopped_at_any_step_equals_the_straight_one(make_experiment, tmp_path, stops, stop_after):
    """Stops between checkpoints, at one, several times, and after the last step."""
    options = dict(model={"num_layers": 1}, checkpoint=CheckpointConfig(every=4))
    straight = train(make_experiment(run_dir=str(tmp_path / "straight"), **options))
    experiment = make_experiment(run_dir=str(tmp_path / "stopped"), **options)
    done = 0
    for steps in stops:
        result = train(experiment, stop=stop_after(steps))
        done += steps
        assert (result.preempted, result.step, result.metrics) == (True, done, {})
    result = train(experiment)
    assert not result.preempted
    assert result.metrics == straight.metrics
    assert values_of(result.directory) == values_of(straight.directory)
