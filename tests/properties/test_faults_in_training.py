"""Bad numbers, signals and trackers: what the user sees, and that nothing committed is lost.

docs/reliability.md has a row for each of these tests, written by docs/make_reliability.py.
"""

import os
import signal
import time

import jax
import jax.numpy as jnp
import pytest
from faulty_job import REDONE, SAVING, STEPS, at_step, stop_itself, write_config
from launching import Job, assert_same_arrays, evaluations_of, poison, values_of

from flaxmill.model.layers.dropout import row_keys
from flaxmill.sharding.processes.stop_signal import SECOND_SIGNAL_SECONDS
from flaxmill.train import loop
from flaxmill.train import step as step_module
from flaxmill.train.checkpoint.checkpoints import Checkpoints

pytestmark = pytest.mark.slow


def assert_one_step_skipped(job, number, seen):
    assert seen.code == 0
    values = values_of(job.directory)
    assert sorted(values) == list(range(STEPS))
    assert [n for n, row in values.items() if None in row] == [number]
    expected = values_of(job.straight)
    assert all(values[n] == expected[n] for n in range(number))


def test_a_batch_with_nan_is_skipped(fresh, monkeypatch, fault_row):
    poison(monkeypatch, {3})
    seen = fresh.train()
    assert_one_step_skipped(fresh, 3, seen)
    fault_row("the loss of a step is not finite: its row has `null`", seen, "that one update")


def poison_gradients(patch, step):
    """Put a NaN into every gradient of this step."""
    accumulate = step_module._accumulate

    def poisoned(loss_of, params, batch, experiment, keys_B):
        grads, sums = accumulate(loss_of, params, batch, experiment, keys_B)
        wanted_B = row_keys(jax.random.fold_in(jax.random.key(experiment.seed), step), len(keys_B))
        bad = (jax.random.key_data(keys_B) == jax.random.key_data(wanted_B)).all()
        return jax.tree.map(lambda x: jnp.where(bad, jnp.nan, x), grads), sums

    patch.setattr(step_module, "_accumulate", poisoned)


def test_a_gradient_with_nan_is_skipped(fresh, tmp_path, monkeypatch, fault_row):
    with monkeypatch.context() as patch:
        poison_gradients(patch, STEPS)  # never: the same program without the fault
        assert fresh.train().code == 0
    fresh.straight = fresh.directory.rename(tmp_path / "never")
    poison_gradients(monkeypatch, 3)
    seen = fresh.train()
    assert_one_step_skipped(fresh, 3, seen)
    loss = {n: row[0] for n, row in values_of(fresh.directory).items()}
    assert loss[3] is not None
    fault_row("a gradient is not finite, though the loss is: `grad_norm` is `null`", seen, "that one update")


def test_too_many_steps_that_are_not_finite_end_the_run_and_keep_their_batches(
    fresh, fault_text, tmp_path, monkeypatch, fault_row
):
    fresh.config = write_config(tmp_path, fault_text, max_skipped_steps=2)
    with monkeypatch.context() as patch:
        poison(patch, {4, 5, 6})
        seen = fresh.train()
    assert seen.code == 1
    assert "(4, 5)" in seen.said
    assert fresh.saved_steps() == [2, 4]
    written = {path.name for path in (fresh.directory / "bad_batches").iterdir()}
    assert {"batch-4.npz", "batch-5.npz"} <= written
    assert fresh.train().code == 0  # the cause is gone, as after a repair
    assert_same_arrays(fresh.directory, fresh.straight, STEPS)
    fault_row("the loss is not finite in `max_skipped_steps` steps in a row", seen, REDONE)


def stopped_while_compiling(job, tmp_path):
    env = {**os.environ, "FLAXMILL_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}
    arguments = ("train", job.config, "--run-dir", job.directory)
    with Job(*arguments, output=tmp_path / "out", env=env) as process:
        assert process.until(lambda: "interrupted " in process.out)
        process.send(signal.SIGTERM)
        process.wait()
    return job.seen(process.wait(), process.out, process.err)


def test_a_signal_before_a_first_step_ends_at_once_with_nothing_to_save(fresh, tmp_path, fault_row):
    seen = stopped_while_compiling(fresh, tmp_path)
    assert seen.lines == ["SIGTERM: stopping; no step was made since the start, and nothing is saved"]
    assert fresh.saved_steps() == []
    assert seen.code == 143
    fresh.continues()
    fault_row("SIGTERM before a run's first step, while it compiles", seen)


def test_a_signal_before_the_first_step_of_a_later_start_finds_all_saved(job, tmp_path, fault_row):
    seen = stopped_while_compiling(job, tmp_path)
    assert seen.lines == [
        "SIGTERM: stopping; no step was made since the start, and all earlier ones are saved"
    ]
    assert seen.code == 75
    job.continues()
    fault_row("SIGTERM before the first step of a start that continues, while it compiles", seen)


def test_a_signal_during_a_save_waits_for_it(fresh, monkeypatch, fault_row):
    save = Checkpoints.save

    def interrupted(checkpoints, step, state, metadata):
        save(checkpoints, step, state, metadata)
        if step == 4:
            stop_itself()

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupted)
        seen = fresh.train()
    assert (seen.code, seen.lines) == (75, [SAVING])
    assert fresh.saved_steps() == [4, 5]
    fresh.continues()
    fault_row("SIGTERM during a save", seen)


def test_a_signal_during_an_evaluation_gives_it_up_and_saves(
    fresh, fault_text, tmp_path, monkeypatch, fault_row
):
    fresh.config = write_config(tmp_path, fault_text, eval_every=3, eval_batches=3)
    evaluate = loop.evaluate_all

    def interrupted(*arguments):
        stop_itself()
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate_all", interrupted)
        seen = fresh.train()
    assert (seen.code, seen.lines) == (75, [SAVING])
    assert fresh.saved_steps() == [2, 3]
    assert fresh.train().code == 0
    assert values_of(fresh.directory) == values_of(fresh.straight)
    assert sorted(evaluations_of(fresh.directory)) == [3, 6, 8]
    fault_row(
        "SIGTERM during an evaluation",
        seen,
        "that evaluation, which the next start makes up for",
    )


SLOW_SAVE = """
import os, signal, time
from flaxmill.train.checkpoint.checkpoints import Checkpoints
from flaxmill.sharding.processes.stop_signal import SECOND_SIGNAL_SECONDS
save = Checkpoints.save
def slow(checkpoints, step, state, metadata):
    save(checkpoints, step, state, metadata)
    if step == 4:
        checkpoints.wait()
        os.kill(os.getpid(), signal.SIGTERM)
    if step == 5:
        time.sleep(300)
Checkpoints.save = slow
"""


def test_two_signals_within_milliseconds_are_one(fresh, monkeypatch, fault_row):
    """`timeout` sends two, and so does a terminal's Ctrl-C that a launcher passes on."""

    def stop_twice():
        stop_itself()
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        at_step(patch, 2, stop_twice)
        seen = fresh.train()
    assert (seen.code, seen.lines) == (75, [SAVING])
    assert fresh.saved_steps() == [2, 3]
    fresh.continues()
    fault_row("SIGTERM, and SIGINT 20 ms later", seen)


def test_a_second_signal_ends_at_once(fresh, tmp_path, fault_row):
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    arguments = ("train", fresh.config, "--run-dir", fresh.directory)
    with Job(*arguments, output=tmp_path / "out", env=env, before=SLOW_SAVE) as process:
        assert process.until(lambda: SAVING in process.err)
        time.sleep(SECOND_SIGNAL_SECONDS)
        process.send(signal.SIGTERM)
        process.wait(10)
    seen = fresh.seen(process.wait(), process.out, process.err)
    told = "SIGTERM: stopping at once; nothing was saved since the first signal"
    assert (seen.code, seen.lines) == (143, [SAVING, told])
    assert 4 in fresh.saved_steps()
    fresh.continues()
    fault_row("a second SIGTERM two seconds later, while the save of the first one hangs", seen, REDONE)


BROKEN_TRACKER = """
import time
class SummaryWriter:
    def __init__(self, *arguments, **options): pass
    def __getattr__(self, name):
        {act}
"""


@pytest.mark.parametrize(
    "act",
    ["raise ConnectionError('the server is gone')", "time.sleep(300)"],
    ids=["raises", "blocks"],
)
def test_a_tracker_neither_stops_nor_changes_nor_holds_the_run(fresh, tmp_path, monkeypatch, act, fault_row):
    (tmp_path / "tensorboardX.py").write_text(BROKEN_TRACKER.format(act=act))
    monkeypatch.syspath_prepend(tmp_path)  # a tracker's process takes over this one's path
    started = time.monotonic()
    seen = fresh.train("--trackers", "tensorboard")
    assert seen.code == 0
    assert time.monotonic() - started < 60
    assert "tensorboard" in seen.said
    for name in ("trackers.json", "trackers.log"):
        (fresh.directory / name).unlink()
    fresh.assert_whole()
    what = "raises" if act.startswith("raise") else "blocks"
    fault_row(f"a tracker {what}", seen, "the tracker's rows; metrics.jsonl has them all")
