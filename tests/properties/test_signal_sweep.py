"""Two signals in quick succession, at any moment of a run: a whole checkpoint and 75, or 128 + signal."""

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from groups import Group, count_steps
from launching import Job, assert_same_end, count_rows, environment, step_rows, write_experiment

from flaxmill.train.checkpoint.damage import find_damaged_arrays, find_damaged_files, load_manifest
from flaxmill.train.checkpoint.directory import find_steps
from flaxmill.train.metrics.metrics_file import read_metrics

GAPS = (0.005, 0.02, 0.05, 0.2)  # seconds between the two
KINDS = ("start", "preparation", "compilation", "steps", "saving", "evaluation")
NUMBERS = (signal.SIGINT, signal.SIGTERM)
STEPS, EVAL_EVERY = 40, 5
MARKS = {"preparation": "training a ", "compilation": "interrupted "}
LATEST = {"start": 3.0, "preparation": 0.6, "compilation": 3.0}  # seconds after the mark
# Popen's codes of a process that had no handler yet; a shell would show 128 + n.
UNHANDLED = (-signal.SIGINT, -signal.SIGTERM)
STARTING = "init_import_site"


class Sweep:
    """A config, and runs of it that signals interrupt again and again."""

    def __init__(self, directory: Path, corpus: Path, number: int, seed: int) -> None:
        self.directory, self.number, self.moments = directory, number, random.Random(seed)
        self.config = write_experiment(
            directory / "job.py",
            "causal",
            corpus,
            data_axis=None if number > 1 else 1,
            checkpoint=dict(every=3, keep_last=3),
            steps=STEPS,
            batch_size=24,
            eval_every=EVAL_EVERY,
            eval_batches=2,
        )
        self.run_dir, self.num_runs = directory / "run-0", 0
        self.codes: dict[str, list[int]] = {}

    def signal_twice(self, kind: str, gap: float) -> None:
        """Start the run, or go on with it, and send two signals at a random moment of a kind."""
        with self._start(self.run_dir) as jobs:
            self._wait_for(kind, jobs[0])
            # A launcher signals all processes; one may be signalled alone once all know of each other.
            everyone = kind in ("start", "preparation") or self.moments.random() < 0.5
            told = jobs if everyone else [self.moments.choice(jobs)]
            for _ in range(2):
                for job in told:
                    if not job.ended:
                        job.send(self.moments.choice(NUMBERS))
                time.sleep(gap)
            codes = [_code_of(job) for job in jobs]
        self.codes.setdefault(kind, []).extend(codes)
        self._check(codes, "\n".join(f"{kind} {gap}: {codes}\n{job.out}\n{job.err}" for job in jobs))
        if codes == [0] * self.number:
            assert_same_end(self.run_dir, self._straight(), STEPS)
            self.num_runs += 1
            self.run_dir = self.directory / f"run-{self.num_runs}"

    def finish(self) -> None:
        """The run that was interrupted so often must end as the straight run."""
        self._train(self.run_dir)
        assert_same_end(self.run_dir, self._straight(), STEPS)

    def _straight(self) -> Path:
        """The run that nothing interrupted."""
        if not (self.directory / "straight").exists():
            self._train(self.directory / "straight")
        return self.directory / "straight"

    def _train(self, run_dir: Path) -> None:
        with self._start(run_dir) as jobs:
            assert [job.wait() for job in jobs] == [0] * self.number, jobs[0].err

    def _check(self, codes: list[int], told: str) -> None:
        assert set(codes) <= {0, 75, 130, 143, *UNHANDLED}, told
        if not set(codes) & set(UNHANDLED):
            assert "Traceback" not in told, told
        steps = find_steps(self.run_dir / "checkpoints")
        for step in steps:
            path = self.run_dir / "checkpoints" / str(step)
            arrays = load_manifest(path)["arrays"]
            assert find_damaged_files(path, arrays) + find_damaged_arrays(path, arrays) == [], told
        if 75 in codes:
            assert steps, told
            rows = step_rows(self.run_dir) if (self.run_dir / "metrics.jsonl").exists() else []
            assert max((row["step"] + 1 for row in rows), default=0) <= steps[-1], f"steps are lost: {told}"

    @contextmanager
    def _start(self, run_dir: Path) -> Iterator[list[Job]]:
        """The job's processes."""
        if self.number > 1:
            with Group(self.config, run_dir, self.number) as group:
                yield group.jobs
            return
        # A cache of its own, so that preparing and compiling are interrupted too.
        env = environment(run_dir.with_name(f"{run_dir.name}-cache"))
        with Job("train", self.config, "--run-dir", run_dir, output=self.directory / "out", env=env) as job:
            yield [job]

    def _wait_for(self, kind: str, job: Job) -> None:
        """Return at a random moment of a kind; the process may have ended, or be past it, by then."""
        if kind in LATEST:
            mark = MARKS.get(kind, "")
            job.until(lambda: mark in job.out or "interrupted " in job.out)
            self._sleep(job, self.moments.uniform(0, LATEST[kind]))
            return
        target = count_steps(self.run_dir) + self.moments.randint(1, 8)
        job.until(lambda: count_steps(self.run_dir) >= target)
        if kind == "saving":
            job.until(lambda: any((self.run_dir / "checkpoints").glob("*.orbax-checkpoint-tmp*")))
        elif kind == "evaluation":
            job.until(self._is_evaluating)
        self._sleep(job, self.moments.uniform(0, 0.03))

    def _is_evaluating(self) -> bool:
        path = self.run_dir / "metrics.jsonl"
        rows = list(read_metrics(path)) if path.exists() and count_rows(self.run_dir) else []
        return bool(rows) and "loss" in rows[-1] and (rows[-1]["step"] + 1) % EVAL_EVERY == 0

    def _sleep(self, job: Job, seconds: float) -> None:
        end = time.monotonic() + seconds
        job.until(lambda: time.monotonic() > end)


def _code_of(job: Job) -> int:
    """The exit code; 1 counts as SIGINT's if the signal came before Python had read any code of ours."""
    code = job.wait()
    return -signal.SIGINT if code == 1 and STARTING in job.err else code


@pytest.mark.slow
@pytest.mark.parametrize(("number", "kinds"), [(1, ("preparation", "saving", "start")), (4, ("steps",))])
def test_two_signals_at_a_few_moments_leave_a_checkpoint_or_say_that_there_is_none(
    number, kinds, corpus, tmp_path
):
    sweep = Sweep(tmp_path, corpus, number, seed=number)
    for place, kind in enumerate(kinds):
        sweep.signal_twice(kind, GAPS[place % len(GAPS)])
    assert 75 in {code for codes in sweep.codes.values() for code in codes}


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("number", [1, 4])
def test_two_signals_at_twenty_moments_leave_a_checkpoint_or_say_that_there_is_none(
    number, gap, corpus, tmp_path, capsys
):
    sweep = Sweep(tmp_path, corpus, number, seed=int(1000 * gap))
    for place in range(20):
        sweep.signal_twice(KINDS[place % len(KINDS)], gap)
    sweep.finish()
    with capsys.disabled():
        print(f"\n{number} processes, {1000 * gap:.0f} ms: {sweep.codes}")
