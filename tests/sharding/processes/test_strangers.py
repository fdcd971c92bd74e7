"""A job of four processes starts and trains while its port is besieged, and nothing comes of it."""

import os
import threading
import time
from pathlib import Path

import pytest
from groups import Group, count_steps
from launching import write_experiment
from strangers import listens, visit

STEPS = 6
BESIEGED_SECONDS = 150  # for the start and the steps; without strangers they take a quarter of it
MAX_DESCRIPTORS = 350  # of process 0, with strangers' connections


def besiege(group: Group, number: int, seed: int, made: list[int]) -> threading.Thread:
    """Make `number` connections to the port of process 0, while the job lasts."""
    until = lambda: all(job.ended for job in group.jobs)  # noqa: E731
    thread = threading.Thread(target=lambda: made.append(visit(group.port, number, seed, until)))
    thread.start()
    return thread


def train_besieged(directory: Path, corpus: Path, number: int) -> list[int]:
    """Train with four processes while three threads make `number` connections; returns how many each made."""
    config = write_experiment(
        directory / "job.py",
        "causal",
        corpus,
        data_axis=None,
        checkpoint=dict(every=3),
        steps=STEPS,
        batch_size=8,
        eval_batches=1,
    )
    made: list[int] = []
    most = 0
    started = time.monotonic()
    with Group(config, directory / "run", 4) as group:
        group.jobs[0].until(lambda: listens(group.port))
        sides = [besiege(group, number // 3 + 1, seed, made) for seed in range(3)]
        while not group.jobs[0].ended:
            most = max(most, _num_descriptors(group.jobs[0].process.pid))
            assert time.monotonic() - started < BESIEGED_SECONDS, group.errors
            time.sleep(0.1)
        assert group.wait(20) == [0] * 4, group.errors
        for side in sides:
            side.join()
    assert count_steps(directory / "run") == STEPS
    assert 0 < most < MAX_DESCRIPTORS
    warnings = [line for line in group.jobs[0].err.splitlines() if "; it is ignored" in line]
    assert 0 < len(warnings) == len(set(warnings)) <= 4
    assert [job.err for job in group.jobs[1:]] == ["", "", ""]
    return made


def _num_descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


@pytest.mark.slow
def test_a_thousand_strangers_change_nothing(corpus, tmp_path):
    assert sum(train_besieged(tmp_path, corpus, 1000)) > 100


@pytest.mark.slow
@pytest.mark.sweep
def test_ten_thousand_strangers_change_nothing(corpus, tmp_path, capsys):
    made = train_besieged(tmp_path, corpus, 30_000)
    with capsys.disabled():
        print(f"\n{sum(made)} strangers came while four processes started and trained")
    assert sum(made) > 10_000
