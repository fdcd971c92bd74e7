"""Jobs of several processes: killed, stopped and continued with fewer or more, they make the same run."""

import itertools
import random
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from groups import HEARTBEAT_SECONDS, Group, count_steps
from launching import (
    assert_same_end,
    leftovers,
    quick_environment,
    run_to_end,
    step_rows,
    values_of,
    write_experiment,
)

from flaxmill.train.checkpoint.store import COMMIT_FILE
from flaxmill.train.metrics.metrics_file import read_metrics

pytestmark = pytest.mark.slow

STEPS, SWEEP_STEPS, NUM_PROCESSES = 30, 60, 4
WITHIN_SECONDS = 15


def finish(config: Path, run_dir: Path, number: int) -> None:
    """Start the job; all of its processes must finish it."""
    with Group(config, run_dir, number) as group:
        assert group.wait() == [0] * number, group.errors


def saved_steps(run_dir: Path) -> set[int]:
    return {int(path.parent.name) for path in (run_dir / "checkpoints").glob(f"*/{COMMIT_FILE}")}


def digests_of(run_dir: Path) -> list[tuple[int, int]]:
    """(step, batch digest), in order; a step that was done twice is listed once."""
    return sorted({(row["step"], row["batch_digest"]) for row in step_rows(run_dir)})


def write_job(directory: Path, corpus: Path, steps: int) -> Path:
    # 24 rows divide over the 2, 4, 6 and 8 devices of one to four processes.
    return write_experiment(
        directory / "job.py",
        "causal",
        corpus,
        data_axis=None,
        checkpoint=dict(every=4),
        steps=steps,
        batch_size=24,
        eval_every=6,
        eval_batches=2,
    )


@pytest.fixture(scope="module")
def config(corpus, tmp_path_factory):
    return write_job(tmp_path_factory.mktemp("many"), corpus, STEPS)


@pytest.fixture(scope="module")
def straight(config):
    """The run of four processes that nothing interrupted."""
    finish(config, config.parent / "straight", NUM_PROCESSES)
    return config.parent / "straight"


@pytest.fixture(scope="module")
def alone(config):
    """The run of one process that is told of no others."""
    env = quick_environment(config.parent / "cache", JAX_NUM_CPU_DEVICES="2")
    run_dir = config.parent / "alone"
    run_to_end(
        "train", config, "--run-dir", run_dir, "--log-digests", output=config.parent / "alone.out", env=env
    )
    return run_dir


def kill_one(group: Group, index: int) -> None:
    """Send SIGKILL to one process; the others must end in time, each with one line that names it."""
    group.jobs[index].kill()
    codes = group.wait(WITHIN_SECONDS)
    for other, (job, code) in enumerate(zip(group.jobs, codes, strict=True)):
        assert code == (-signal.SIGKILL if other == index else 1), group.errors
        if other != index:
            (line,) = (line for line in job.err.splitlines() if line.startswith("flaxmill: error: "))
            assert f"process {index} " in line
            assert "Traceback" not in job.err


def test_process_0_alone_writes_rows_and_each_reads_the_rows_of_one_process(straight, alone):
    rows = [row["step"] for row in step_rows(straight)]
    assert rows == list(range(STEPS))
    assert digests_of(straight) == digests_of(alone)
    assert leftovers(straight) == []


def test_a_job_whose_process_was_killed_equals_the_straight_one(config, straight):
    run_dir = config.parent / "killed"
    moments = random.Random(4)
    with Group(config, run_dir, NUM_PROCESSES) as group:
        assert group.until_rows(moments.randint(2, STEPS // 2))
        kill_one(group, moments.randrange(NUM_PROCESSES))
    finish(config, run_dir, NUM_PROCESSES)
    assert_same_end(run_dir, straight, STEPS)


def test_a_stopped_job_continues_with_any_number_of_processes(config, straight, alone):
    """4, then 2, 1 and 3 processes, each stopped by SIGTERM to any one of them."""
    run_dir = config.parent / "moved"
    moments = random.Random(5)
    stopped_at = []
    for number in (4, 2, 1):
        before = count_steps(run_dir)
        with Group(config, run_dir, number) as group:
            assert group.until_rows(before + 1)
            group.jobs[moments.randrange(number)].send(signal.SIGTERM)
            assert group.wait() == [75] * number, group.errors
        stopped_at.append(max(saved_steps(run_dir)))
        assert sorted(values_of(run_dir)) == list(range(stopped_at[-1]))
    assert 0 < stopped_at[0] < stopped_at[1] < stopped_at[2] < STEPS
    finish(config, run_dir, 3)
    assert digests_of(run_dir) == digests_of(alone)
    assert len(digests_of(run_dir)) == STEPS
    losses, expected = ([row["loss"] for row in step_rows(path)] for path in (run_dir, alone))
    # Sums over devices come in another order: float32 rounding, carried through the updates.
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


# A save lasts ten steps, so it ends before the next save that is due by steps; the loss of step 14 spikes.
SLOW_SAVES_AND_A_SPIKE = """
import sys, time
from flaxmill.train.checkpoint import checkpoints as checkpoint
from flaxmill.train.recorder import Recorder
from flaxmill.train.spikes import SpikeDetector

Checkpoints, start_save = checkpoint.Checkpoints, checkpoint.start_save
finish, record, is_spike = Checkpoints._finish, Recorder.record, SpikeDetector.is_spike
last, losses = [0], []

def start(path, leaves, manifest):
    print("begun", path.name, file=sys.stderr)
    return start_save(path, leaves, manifest)

def finish_slowly(checkpoints, response, path):
    first, since = last[0], time.monotonic()
    while last[0] < min(first + 10, {last_step}) and time.monotonic() < since + 10:
        time.sleep(0.01)
    finish(checkpoints, response, path)
    print("written", path.name, file=sys.stderr)

def count(recorder, step, metrics, data_seconds):
    last[0] = step
    record(recorder, step, metrics, data_seconds)

def spike_once(detector, loss):
    losses.append(loss)
    if len(losses) != 15:
        return is_spike(detector, loss)
    last[0] = {last_step}  # the way back waits for the save
    return True

checkpoint.start_save, Checkpoints._finish = start, finish_slowly
Recorder.record, SpikeDetector.is_spike = count, spike_once
"""


def test_slow_saves_by_the_clock_do_not_pile_up_and_two_processes_roll_back_alike(config):
    run_dir = config.parent / "slow"
    # The clock always asks: it would save after every third step, were it not for the save in progress.
    flags = ("--checkpoint.every", 12, "--checkpoint.every_minutes", 1e-6, "--eval_every", STEPS)
    before = SLOW_SAVES_AND_A_SPIKE.format(last_step=STEPS - 1)
    with Group(config, run_dir, 2, *flags, before=before) as group:
        assert group.wait() == [0, 0], group.errors
    events = [re.findall(r"^(begun|written) (\d+)$", job.err, re.MULTILINE) for job in group.jobs]
    assert events[0] == events[1]
    begun, written = events[0][::2], events[0][1::2]
    assert [("written", step) for _, step in begun] == written, "one save began before the last had ended"
    steps = [int(step) for _, step in written]
    assert set(steps) > {12, 24, STEPS}, "the clock asked for none"
    assert len(steps) <= STEPS // 5

    rows = list(read_metrics(run_dir / "metrics.jsonl"))
    (turn,) = (index for index, row in enumerate(rows) if "rollback_from" in row)
    assert (rows[turn]["step"], rows[turn]["rollback_from"]) == (12, 14)
    first, second = ([row for row in part if "loss" in row] for part in (rows[:turn], rows[turn:]))
    assert [row["step"] for row in first] == list(range(14))
    assert [row["step"] for row in second] == list(range(12, STEPS))
    read = {row["batch_digest"] for row in first}
    assert not read & {row["batch_digest"] for row in second}, "a batch that was skipped came again"


LOADS_SLOWLY = """
import sys, time

class Slow:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "flaxmill.train.loop" and sys.argv[-1] == "1":
            time.sleep({seconds})

sys.meta_path.insert(0, Slow)
"""


def test_a_process_that_loads_its_libraries_slowly_is_not_taken_for_dead(config):
    before = LOADS_SLOWLY.format(seconds=HEARTBEAT_SECONDS + 2)
    with Group(config, config.parent / "loading", 2, "--steps", 2, before=before) as group:
        assert group.wait() == [0, 0], group.errors


def test_processes_with_different_seeds_end_at_once_and_name_the_seed(config):
    with Group(config, config.parent / "seeds", 2, own_flags={1: ["--seed", 7]}) as group:
        codes = group.wait()
    assert codes == [2, 2], group.errors
    for job in group.jobs:
        (line,) = job.err.splitlines()
        assert line.startswith("flaxmill: error: the processes of this job were not started the same way")
    assert "seed 0 -> 7" in group.jobs[1].err
    assert not group.run_dir.exists()


def kill_somewhere(config: Path, run_dir: Path, moments: random.Random, num_left: int) -> int | None:
    """Start the job and kill one process; returns how many steps it had made, None if it was done before."""
    before = count_steps(run_dir)
    victim = moments.randrange(NUM_PROCESSES)
    with Group(config, run_dir, NUM_PROCESSES) as group:
        if moments.random() < 0.5:
            until = time.monotonic() + moments.uniform(0, 15)
            group.jobs[0].until(lambda: time.monotonic() > until)
        else:
            group.until_rows(before + moments.randint(1, 1 + 2 * SWEEP_STEPS // num_left))
        if group.jobs[0].ended:
            assert group.wait() == [0] * NUM_PROCESSES, group.errors
            return None
        if group.jobs[0].out:  # all have met: it has begun to prepare, or to restore
            kill_one(group, victim)
        else:  # the launcher ends the rest
            group.jobs[victim].kill()
    return count_steps(run_dir) - before


@pytest.mark.sweep
def test_a_job_killed_at_random_moments_equals_the_straight_one(corpus, tmp_path, capsys):
    """One random process each time, at any time from its start, in as many runs as that takes."""
    num_kills, moments = 50, random.Random(50)
    config, straight = write_job(tmp_path, corpus, SWEEP_STEPS), tmp_path / "straight"
    finish(config, straight, NUM_PROCESSES)
    steps_made: list[int] = []
    for number in itertools.count():
        run_dir = tmp_path / f"killed-{number}"
        while len(steps_made) < num_kills:
            made = kill_somewhere(config, run_dir, moments, num_kills - len(steps_made))
            if made is None:
                break
            steps_made.append(made)
        else:
            finish(config, run_dir, NUM_PROCESSES)
        assert_same_end(run_dir, straight, SWEEP_STEPS)
        if len(steps_made) == num_kills:
            break
    with capsys.disabled():
        print(f"\n4 processes: {num_kills} kills, {steps_made.count(0)} of them before a first step")
