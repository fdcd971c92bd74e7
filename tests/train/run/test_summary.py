"""A run at a glance: from whole, torn, growing and damaged files."""

import json
import os
from pathlib import Path

import jax.numpy as jnp
import pytest

from flaxmill.train.checkpoint.checkpoints import CheckpointConfig, Checkpoints
from flaxmill.train.experiment import Experiment
from flaxmill.train.run.directory import write_config
from flaxmill.train.run.lock import lock_run_directory
from flaxmill.train.run.summary import evaluation_loss, find_runs, summarize, with_checkpoint_checked

ROWS = [
    *(
        {"step": step, "loss": 5.0 - step, "num_tokens": 10 * step, "tokens_per_second": 7.0}
        for step in range(3)
    ),
    {"step": 3, "eval_loss": 4.5, "eval_accuracy": 0.5},
]


def make_run(directory: Path, *, steps: int = 9, rows: list[dict] = ROWS) -> Path:
    directory.mkdir(parents=True)
    write_config(directory, Experiment(steps=steps), None)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def save(run: Path, step: int) -> Path:
    with Checkpoints(run / "checkpoints", CheckpointConfig()) as checkpoints:
        checkpoints.save(step, {"params": {"x": jnp.ones(3)}}, {})
    return run / "checkpoints" / str(step)


def test_a_run_is_what_its_newest_rows_say(tmp_path):
    summary = summarize(make_run(tmp_path / "run"))
    assert (summary.state, summary.objective, summary.step, summary.steps) == ("stopped", "causal", 3, 9)
    assert (summary.loss, summary.tokens_per_second, summary.num_tokens) == (3.0, 7.0, 20)
    assert evaluation_loss(summary) == 4.5
    assert summary.evaluation == ROWS[-1]
    assert summary.written_at == (tmp_path / "run" / "metrics.jsonl").stat().st_mtime


@pytest.mark.parametrize(("steps", "state"), [(3, "finished"), (4, "stopped")])
def test_a_run_that_made_its_steps_is_finished(steps, state, tmp_path):
    assert summarize(make_run(tmp_path / "run", steps=steps)).state == state


def test_a_locked_run_is_running(tmp_path):
    run = make_run(tmp_path / "run")
    with lock_run_directory(run):
        assert summarize(run).state == "running"
    assert summarize(run).state == "stopped"


def test_a_checkpoint_counts_where_rows_are_seldom(tmp_path):
    run = make_run(tmp_path / "run")
    save(run, 5)
    assert summarize(run).step == 5


def test_a_run_without_a_step_has_no_numbers(tmp_path):
    run = make_run(tmp_path / "run", rows=[])
    (run / "metrics.jsonl").unlink()
    (run / "checkpoints").mkdir()
    summary = summarize(run)
    assert (summary.state, summary.step, summary.loss, summary.evaluation) == ("stopped", 0, None, None)


def test_a_torn_row_is_passed_over(tmp_path):
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert summarize(run).step == 3


@pytest.mark.parametrize("value", ["much", None, [1], {}, True])
def test_a_number_that_is_none_is_unknown(value, tmp_path):
    step = {"step": 2, "loss": value, "num_tokens": value, "tokens_per_second": value}
    summary = summarize(make_run(tmp_path / "run", rows=[step, {"step": 3, "eval_loss": value}]))
    assert (summary.step, summary.loss, summary.num_tokens, summary.tokens_per_second) == (
        3,
        None,
        None,
        None,
    )
    assert evaluation_loss(summary) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"steps": -1}', None])
def test_a_damaged_config_is_named(content, tmp_path):
    run = make_run(tmp_path / "run")
    (run / "config.json").unlink()
    if content is not None:
        (run / "config.json").write_text(content)
    summary = summarize(run)
    assert summary.state == "damaged"
    assert "config.json" in (summary.problem or "")
    assert "\n" not in (summary.problem or "")


def test_metrics_that_are_no_file_are_named(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    summary = summarize(run)
    assert (summary.state, "metrics.jsonl is not a file" in (summary.problem or "")) == ("damaged", True)


def test_a_damaged_newest_checkpoint_is_named_unless_the_run_trains(tmp_path):
    run = make_run(tmp_path / "run")
    checkpoint = save(run, 5)
    assert with_checkpoint_checked(summarize(run)).state == "stopped"
    for file in checkpoint.rglob("*"):
        if file.is_file() and file.stat().st_size:
            os.truncate(file, file.stat().st_size // 2)
    summary = with_checkpoint_checked(summarize(run))
    assert summary.state == "damaged"
    assert (summary.problem or "").startswith("checkpoint 5: ")
    with lock_run_directory(run):
        assert with_checkpoint_checked(summarize(run)).state == "running"


def test_runs_are_found_below_a_folder_and_not_within_each_other(tmp_path):
    for name in ("b", "a/seed-1", "a/seed-0", "c/deep/er"):
        make_run(tmp_path / name)
    make_run(tmp_path / "b" / "copy")
    make_run(tmp_path / ".hidden" / "run")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = [str(path.relative_to(tmp_path)) for path in find_runs(tmp_path)]
    assert found == ["a/seed-0", "a/seed-1", "b", "c/deep/er"]
    assert list(find_runs(tmp_path / "b")) == [tmp_path / "b"]
