"""docs/launch/slurm.sh on a real Slurm: two tasks, preempted, requeued, and continued bit for bit."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from launchers import FILES, STEPS, Launched, until_training
from launching import assert_same_end, values_of
from slurm import PROGRAMS, Cluster, find_program

pytestmark = pytest.mark.launch

LONG = 100 * STEPS  # a job that outlives its test, should one, ends in some minutes


@pytest.fixture(scope="module")
def cluster(launched: Launched) -> Iterator[Cluster]:
    missing = [name for name in PROGRAMS if find_program(name) is None]
    assert not missing, f"{', '.join(missing)} missing; `make launch` installs Slurm, or install slurm-wlm"
    with Cluster(launched.env) as cluster:
        yield cluster


@pytest.fixture
def submit(cluster: Cluster, launched: Launched, tmp_path: Path) -> Callable[..., str]:
    """Submits the script that users copy, for two tasks on the one node; returns the job's number."""

    def submit(*flags: Any) -> str:
        job = ("--nodes=1", "--ntasks-per-node=2", f"--output={tmp_path}/log", FILES / "slurm.sh")
        return cluster.submit(*job, launched.config, "--run-dir", tmp_path / "run", *flags)

    return submit


@pytest.mark.parametrize(
    "preempt", [("scontrol", "requeue"), ("scancel", "--signal=TERM")], ids=["requeue", "SIGTERM"]
)
def test_a_preempted_job_is_requeued_and_ends_as_an_uninterrupted_one(
    cluster: Cluster,
    launched: Launched,
    submit: Callable[..., str],
    tmp_path: Path,
    preempt: tuple[str, ...],
) -> None:
    job = submit()
    until_training(tmp_path / "run")
    cluster.call(*preempt, job)
    seen = cluster.end_of(job)
    log = (tmp_path / "log").read_text()
    assert (seen["JobState"], seen["ExitCode"], seen["Restarts"]) == ("COMPLETED", "0:0", "1"), log
    assert "in 2 processes" in log
    assert "tasks 0-1: Exited with exit code 75" in log or log.count("Exited with exit code 75") == 2, log
    stopped = re.search(r"0: stopped after step (\d+);", log)
    assert stopped is not None, log
    assert 0 < int(stopped[1]) < STEPS
    assert f"at step {stopped[1]} of {STEPS} steps" in log
    assert_same_end(tmp_path / "run", launched.straight, STEPS)


def test_the_time_limit_leaves_time_to_save(
    cluster: Cluster, submit: Callable[..., str], tmp_path: Path
) -> None:
    job = submit("--steps", LONG)
    until_training(tmp_path / "run")
    cluster.call(
        "scontrol", "update", f"JobId={job}", "TimeLimit=2"
    )  # the script asks for SIGTERM 120 s before
    cluster.wait(job, lambda seen: seen["Restarts"] == "1")
    cluster.call("scancel", job)
    log = (tmp_path / "log").read_text()
    assert "SIGTERM: saving and stopping" in log
    assert "DUE TO TIME LIMIT" not in log
    stopped = re.search(r"0: stopped after step (\d+);", log)
    assert stopped is not None, log
    assert sorted(values_of(tmp_path / "run")) == list(range(int(stopped[1])))


def test_a_mistake_is_not_requeued(cluster: Cluster, submit: Callable[..., str], tmp_path: Path) -> None:
    seen = cluster.end_of(submit("--batch-size", 7))
    assert (seen["JobState"], seen["ExitCode"], seen["Restarts"]) == ("FAILED", "2:0", "0")
    assert "batch_size=7" in (tmp_path / "log").read_text()


def test_a_task_that_is_killed_ends_the_job_and_is_named(
    cluster: Cluster, submit: Callable[..., str], tmp_path: Path
) -> None:
    job = submit("--steps", LONG, "--heartbeat-seconds", 5)
    until_training(tmp_path / "run")
    _kill(cluster, job, task=1)
    seen = cluster.end_of(job)
    log = (tmp_path / "log").read_text()
    assert (seen["JobState"], seen["ExitCode"], seen["Restarts"]) == ("FAILED", "137:0", "0"), log
    assert "task 1: Killed" in log
    assert re.search(r"0: flaxmill: error: process 1 \(.*\) has not been heard from for 5 s", log), log


def _kill(cluster: Cluster, job: str, *, task: int) -> None:
    """SIGKILL, as the kernel sends it where memory is short."""
    lines = cluster.call("scontrol", "listpids", f"{job}.0").splitlines()[1:]
    [process] = [int(words[0]) for words in map(str.split, lines) if words[4] == str(task)]
    os.kill(process, signal.SIGKILL)
