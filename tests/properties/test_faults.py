"""Faults of disks, files, clocks and people: what the user sees, and that nothing committed is lost.

docs/reliability.md has a row for each of these tests, written by docs/make_reliability.py.
"""

import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from faulty_job import REDONE, STEPS, STOPPED_AT, at_step, mounted, short_of_disk, stop_itself, write_config
from launching import PROGRAM

from flaxmill.train.checkpoint.checkpoints import CheckpointConfig, Checkpoints
from flaxmill.train.checkpoint.store import COMMIT_FILE
from flaxmill.train.recorder import Recorder
from flaxmill.train.run import provenance

pytestmark = pytest.mark.slow


def a_file_is_truncated(job):
    path = job.largest_file(STOPPED_AT)
    os.truncate(path, path.stat().st_size // 2)


def a_byte_is_flipped(job):
    path = job.largest_file(STOPPED_AT)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def a_file_is_missing(job):
    job.largest_file(STOPPED_AT).unlink()


def the_manifest_is_missing(job):
    (job.directory / "checkpoints" / str(STOPPED_AT) / COMMIT_FILE).unlink()


@pytest.mark.parametrize(
    "damage", [a_file_is_truncated, a_byte_is_flipped, a_file_is_missing, the_manifest_is_missing]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(job, damage, fault_row):
    damage(job)
    seen = job.continues()
    assert seen.lines, "a damaged checkpoint is no secret"
    assert f"RUN/checkpoints/{STOPPED_AT}" in seen.said
    assert f"at step {STOPPED_AT - 1} of" in seen.out
    fault_row(f"{damage.__name__.replace('_', ' ')} in the newest checkpoint", seen, REDONE)


def test_no_checkpoint_that_is_whole_ends_the_run_and_touches_nothing(job, fault_row):
    for saved in job.saved_steps():
        path = job.largest_file(saved)
        os.truncate(path, path.stat().st_size // 2)
    seen = job.train()
    assert seen.code == 1
    assert "RUN/checkpoints/" in seen.said
    fault_row(
        "all checkpoints are damaged",
        seen,
        "the run, unless there is a copy of a checkpoint",
    )


def test_a_read_only_directory_is_refused_before_anything_is_trained(fresh, fault_runs, fault_row):
    with mounted(fresh.directory, "64m") as remount:
        shutil.copytree(fault_runs[2], fresh.directory, dirs_exist_ok=True)
        if remount:
            remount("ro")
        else:
            fresh.directory.chmod(0o555)
        seen = fresh.train()
        assert seen.code == 2
        assert "read-only" in seen.said
        if remount:
            remount("rw")
        else:
            fresh.directory.chmod(0o755)
        fresh.continues()
    fault_row("the run directory is read-only", seen)


def test_a_disk_that_fills_up_during_a_save_ends_the_run_by_name(fresh, monkeypatch, fault_row):
    with mounted(fresh.directory, "8m"):
        save = Checkpoints.save

        def save_on_full_disk(checkpoints, step, state, metadata):
            if step < STOPPED_AT:
                return save(checkpoints, step, state, metadata)
            checkpoints.wait()
            with short_of_disk(fresh.directory):
                save(checkpoints, step, state, metadata)
                checkpoints.wait()

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", save_on_full_disk)
            seen = fresh.train()
        assert seen.code == 1
        assert "RUN/checkpoints/6" in seen.said
        assert fresh.saved_steps() == [2, 4]
        fresh.continues()
    fault_row("the disk fills up during a save", seen, REDONE)


@pytest.mark.parametrize("kept", [0.5, 0.02])
def test_a_torn_last_row_is_passed_over_and_written_again(job, kept, fault_row):
    path = job.directory / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][: int(kept * len(lines[-1]))])
    shutil.rmtree(job.directory / "checkpoints" / str(STOPPED_AT))  # as a kill would leave it
    seen = job.continues()
    assert seen.lines == []
    fault_row(
        "the last row of metrics.jsonl is torn",
        seen,
        "that row, until its step is done again",
    )


def test_a_second_job_on_one_run_directory_is_refused_and_names_the_first(fresh, monkeypatch, fault_row):
    second = []

    def start_second():
        command = [
            sys.executable,
            "-c",
            PROGRAM,
            "train",
            str(fresh.config),
            "--run-dir",
            str(fresh.directory),
        ]
        second.append(subprocess.run(command, capture_output=True, text=True, timeout=120))

    at_step(monkeypatch, 3, start_second)
    seen = fresh.continues()
    assert seen.lines == []
    (ended,) = second
    refused = fresh.seen(ended.returncode, ended.stdout, ended.stderr)
    assert refused.code == 2
    assert str(os.getpid()) in ended.stderr
    assert refused.lines == [
        "error: RUN is being trained by process PID on HOST; wait for it, or give another --run-dir"
    ]
    fault_row("a second job is started on one run directory", refused)


def test_the_lock_of_a_process_that_died_does_not_block(job, fault_row):
    program = (
        "import pathlib, sys, time; from flaxmill.train.run.lock import lock_run_directory\n"
        "with lock_run_directory(pathlib.Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(job.directory)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        process.kill()
    seen = job.continues()
    assert seen.lines == []
    fault_row("the lock of a process that was killed is still there", seen)


def test_a_clock_that_jumps_back_changes_nothing(fresh, fault_text, tmp_path, monkeypatch, fault_row):
    """It does not even change when a run saves: saves are not timed by the wall clock."""
    by_clock = {"every": 1000, "every_minutes": 1e-6, "keep_last": STEPS}
    fresh.config = write_config(tmp_path, fault_text, checkpoint=by_clock)
    now, now_ns, day = time.time, time.time_ns, 86_400
    jumps, save = [0], Checkpoints.save

    def jump_back(recorder, step, metrics, data_seconds):
        jumps[0] += 1
        record(recorder, step, metrics, data_seconds)

    def save_and_wait(checkpoints, step, state, metadata):
        save(checkpoints, step, state, metadata)
        checkpoints.wait()  # the clock asks for no save while one is being written

    record = Recorder.record
    monkeypatch.setattr(time, "time", lambda: now() - jumps[0] * day)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() - jumps[0] * day * 10**9)
    monkeypatch.setattr(Recorder, "record", jump_back)
    monkeypatch.setattr(Checkpoints, "save", save_and_wait)
    seen = fresh.continues()
    assert seen.lines == []
    assert jumps == [STEPS]
    assert len(fresh.saved_steps()) >= 3  # by the wall clock: the first and the last step's
    fault_row("the clock jumps back by a day", seen)


def test_checkpoints_from_the_future_are_continued(fresh, monkeypatch, fault_row):
    now, now_ns, tomorrow = time.time, time.time_ns, time.time() + 86_400

    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.fromtimestamp(tomorrow, tz)

    with monkeypatch.context() as patch:
        patch.setattr(provenance, "datetime", SimpleNamespace(datetime=Tomorrow, UTC=datetime.UTC))
        patch.setattr(time, "time", lambda: now() + 86_400)
        patch.setattr(time, "time_ns", lambda: now_ns() + 86_400 * 10**9)
        at_step(patch, STOPPED_AT - 1, stop_itself)
        assert fresh.train().code == 75
    for path in fresh.directory.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    with Checkpoints(fresh.directory / "checkpoints", CheckpointConfig(), read_only=True) as checkpoints:
        saved_at = datetime.datetime.fromisoformat(checkpoints.open(STOPPED_AT).metadata["saved_at"])
    assert saved_at.timestamp() > time.time() + 3600
    seen = fresh.continues()
    assert seen.lines == []
    assert f"at step {STOPPED_AT} of" in seen.out
    fault_row("the run's files are of tomorrow: the clock was set back between two starts", seen)


def test_an_edited_config_is_refused_with_what_differs(job, fault_row):
    seen = job.train("--model.dropout", "0.2")
    assert seen.code == 2
    assert "model.dropout 0.1 -> 0.2" in seen.said
    job.continues()
    fault_row("the config was edited", seen)


def test_other_text_is_refused_unless_allowed(fresh, fault_text, tmp_path, monkeypatch, fault_row):
    own = shutil.copy(fault_text, tmp_path / "own.txt")
    fresh.config = write_config(tmp_path, own)
    with monkeypatch.context() as patch:
        at_step(patch, STOPPED_AT - 1, stop_itself)
        assert fresh.train().code == 75
    content, described = own.read_bytes(), fresh.described()
    own.write_bytes(content[1000:])
    seen = fresh.train()
    assert seen.code == 2
    assert "but its text has changed: the dataset is now" in seen.said
    assert fresh.described() == described
    fault_row("the text was changed", seen)
    kept = shutil.copytree(fresh.directory, tmp_path / "kept")
    allowed = fresh.train("--allow-other-data")
    assert allowed.code == 0
    assert "warning: " in allowed.said
    assert "but its text has changed: the dataset is now" in allowed.said
    fault_row("the same, with --allow-other-data", allowed)
    own.write_bytes(content)
    shutil.rmtree(fresh.directory)
    kept.rename(fresh.directory)
    fresh.continues()


def test_another_tokenizer_is_refused(fresh, fault_text, tmp_path, monkeypatch, fault_row):
    file = tmp_path / "tokenizer.json"
    file.write_text((fresh.straight / "tokenizer.json").read_text())
    fresh.config = write_config(tmp_path, fault_text, tokenizer=str(file))
    with monkeypatch.context() as patch:
        at_step(patch, STOPPED_AT - 1, stop_itself)
        assert fresh.train().code == 75
    original = file.read_text()
    stored = json.loads(original)
    vocabulary = stored["model"]["vocab"]
    one, other = sorted(vocabulary, key=lambda token: vocabulary[token])[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    file.write_text(json.dumps(stored))
    described = fresh.described()
    seen = fresh.train()
    assert seen.code == 2
    assert "but its tokenizer has changed" in seen.said
    assert fresh.described() == described
    file.write_text(original)
    fresh.continues()
    fault_row("the tokenizer was exchanged", seen)
