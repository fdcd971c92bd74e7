"""A run that SIGKILL ends at random moments, and the same command starts again, ends as an unkilled run:
`make sweep` kills fifty times, `make test` a few."""

import collections
import itertools
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from launching import Job, assert_same_end, count_rows, environment, values_of, write_experiment
from parameters import swept

from flaxmill.train.metrics.metrics_file import read_metrics

EVAL_EVERY = 5
SPREAD = ("start", "save", "steps", "evaluation", "start", "steps", "steps")
"""Kinds of moments, in the proportion in which they are drawn."""
MARKS = {
    "preparation": ("training a ",),
    "prepared": ("prepared ",),
    "compilation": ("interrupted trains", "interrupted continues", "interrupted in"),
}
"""What the job prints, in this order."""


class Sweep:
    """A job of `steps` steps, its uninterrupted run, and moments at which to kill it."""

    def __init__(self, directory: Path, objective: str, corpus: Path, steps: int) -> None:
        self.directory, self.steps = directory, steps
        self.config = write_experiment(
            directory / "job.py",
            objective,
            corpus,
            checkpoint=dict(every=7),
            steps=steps,
            batch_size=16,
            eval_every=EVAL_EVERY,
            eval_batches=2,
        )
        self.straight = directory / "straight"
        with self._start(self.straight) as job:
            times = [job.started]
            for marks in MARKS.values():
                job.until(lambda marks=marks: any(mark in job.out for mark in marks))
                times.append(time.monotonic())
            job.until(lambda: count_rows(self.straight) > 0)
            times.append(time.monotonic())
            assert job.wait() == 0, job.err
        names = ("start", "preparation", "", "compilation")
        self._seconds = dict(zip(names, np.diff(times), strict=True))

    def _start(self, run_dir: Path) -> Job:
        # A cache of its own, so that preparing and compiling are killed too.
        return Job(
            "train",
            self.config,
            "--run-dir",
            run_dir,
            output=run_dir.with_name(f"{run_dir.name}.out"),
            env=environment(run_dir.with_name(f"{run_dir.name}-cache")),
        )

    def kill(self, num_kills: int, seed: int) -> collections.Counter[str]:
        """Kill `num_kills` times, in as many runs as that takes; returns how often each phase was hit."""
        phases: collections.Counter[str] = collections.Counter()
        moments = random.Random(seed)
        kinds = _draw_kinds(num_kills, moments)
        for number in itertools.count():
            run_dir = self.directory / f"killed-{number}"
            self._kill_one_run(run_dir, kinds, moments, phases)
            assert_same_end(run_dir, self.straight, self.steps)
            data = run_dir.with_name(f"{run_dir.name}-cache") / "data"
            assert list(data.glob(".*.partial")) == []
            if not kinds:
                return phases
        raise AssertionError("unreachable")

    def _kill_one_run(
        self, run_dir: Path, kinds: list[str], moments: random.Random, phases: collections.Counter[str]
    ) -> None:
        """Start the same command until it is done; each start is killed at the next kind of moment."""
        while True:
            before = count_rows(run_dir)
            with self._start(run_dir) as job:
                if kinds:
                    self._wait_for(kinds[-1], job, run_dir, moments, len(kinds))
                    code = job.kill()
                else:
                    code = job.wait()
            assert code in (0, -signal.SIGKILL), f"exit code {code}:\n{job.out}\n{job.err}"
            if code == 0:
                return
            kinds.pop()
            phases[_phase(job, run_dir, before)] += 1

    def _wait_for(self, kind: str, job: Job, run_dir: Path, moments: random.Random, num_left: int) -> None:
        """Return at a random moment of a kind; the process may have ended by then."""
        if kind in ("start", "preparation", "compilation"):
            job.until(lambda: kind == "start" or _has_reached(kind, job.out))
            # Data are prepared once per run: a machine that is quicker now must not finish before the kill.
            share = 0.4 if kind == "preparation" else 1.0
            _sleep(job, moments.uniform(0, share * self._seconds[kind]))
            return
        done = max((step + 1 for step in values_of(run_dir)), default=0) if run_dir.exists() else 0
        target = count_rows(run_dir) + moments.randint(1, max(1, 2 * (self.steps - done) // num_left))
        job.until(lambda: count_rows(run_dir) >= target)
        if kind == "save":
            job.until(lambda: _is_saving(run_dir))
        elif kind == "evaluation":
            job.until(lambda: _is_evaluating(run_dir))
        _sleep(job, moments.uniform(0, 0.03))


def _draw_kinds(num_kills: int, moments: random.Random) -> list[str]:
    """Kinds of moments, in reverse order; preparation comes first, as only a run's beginning prepares."""
    early = max(1, num_kills // 10)
    kinds = [SPREAD[i % len(SPREAD)] for i in range(num_kills - 2 * early)]
    moments.shuffle(kinds)
    return [*kinds, *["compilation"] * early, *["preparation"] * early]


def _has_reached(kind: str, out: str) -> bool:
    """Whether a process has reached this phase, or passed it."""
    later = list(MARKS)[list(MARKS).index(kind) :]
    return any(mark in out for name in later for mark in MARKS[name])


def _sleep(job: Job, seconds: float) -> None:
    end = time.monotonic() + seconds
    job.until(lambda: time.monotonic() > end)


def _phase(job: Job, run_dir: Path, rows_before: int) -> str:
    """The phase in which a process was killed, from what it left behind."""
    if not _has_reached("compilation", job.out):
        reached = [_has_reached(kind, job.out) for kind in ("preparation", "prepared")]
        return "preparation" if reached == [True, False] else "start"
    if count_rows(run_dir) == rows_before:
        return "compilation"
    if _is_evaluating(run_dir):
        return "evaluation"
    return "save" if _is_saving(run_dir) else "steps"


def _is_saving(run_dir: Path) -> bool:
    return any((run_dir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def _is_evaluating(run_dir: Path) -> bool:
    """Whether the last row is of a step that an evaluation follows."""
    path = run_dir / "metrics.jsonl"
    rows = list(read_metrics(path)) if path.exists() else []
    return bool(rows) and "loss" in rows[-1] and (rows[-1]["step"] + 1) % EVAL_EVERY == 0


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["causal", *swept("mlm_nsp")])
def test_a_run_killed_a_few_times_equals_the_straight_one(objective, corpus, tmp_path):
    phases = Sweep(tmp_path, objective, corpus, steps=20).kill(4, seed=4)
    assert phases.total() == 4


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.parametrize("objective", ["causal", "mlm_nsp"])
def test_a_run_killed_fifty_times_equals_the_straight_one(objective, corpus, tmp_path, capsys):
    phases = Sweep(tmp_path, objective, corpus, steps=600).kill(50, seed=50)
    with capsys.disabled():
        hits = ", ".join(f"{number} {phase}" for phase, number in phases.most_common())
        print(f"\n{objective}: {phases.total()} kills: {hits}")
    assert phases.total() == 50
    assert phases.keys() >= {"preparation", "compilation", "steps", "save", "evaluation"}
