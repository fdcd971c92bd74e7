"""Measures how long training waits for its batches: `data_seconds` beside `step_seconds`.

    python benchmarks/data_seconds.py

Trains gpt_tiny and bert_tiny, in turns, with their rows on the disk and with 50 ms added to every call that
opens or reads a file, as a bucket that is mounted as a file system would take. (array_record reads the rows
of a call side by side, so a call costs one such delay.) Prints data_seconds / step_seconds over the steps
after the first few, in sum and of the median step, and tokens/s, as medians of the repetitions. The exit
status is 1 if the sum's share misses the bar. Evaluation and saving are left out.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from flaxmill.data.prepared import shard_reader
from flaxmill.train.experiment import Experiment
from flaxmill.train.loop import train
from flaxmill.train.named_configs import load_config

BAR = 0.01
REPETITIONS = 3
STEPS = {"gpt_tiny": 300, "bert_tiny": 120}
FIRST_STEPS = 20  # compile, open files and fill the pipeline
LATENCIES = (0.0, 0.05)


class Waiting(NamedTuple):
    """What one run's metrics say."""

    share: float
    """data_seconds / step_seconds, both summed over the steps."""
    median_share: float
    """The median of the steps' own shares."""
    tokens_per_second: float


class StopAfter:
    """The loop asks it after every step; it ends the run when there were enough."""

    def __init__(self, num_steps: int) -> None:
        self._left = num_steps

    @property
    def requested(self) -> bool:
        self._left -= 1
        return self._left <= 0

    def started(self) -> None: ...

    def saved(self) -> None: ...


@contextlib.contextmanager
def latency(seconds: float) -> Iterator[None]:
    """Adds this many seconds to every opening and every reading of a shard."""
    module = shard_reader.array_record_module

    class RemoteReader:
        def __init__(self, path: str, options: str) -> None:
            time.sleep(seconds)
            self._reader = module.ArrayRecordReader(path, options)

        def num_records(self) -> int:
            return self._reader.num_records()

        def read(self, positions: list[int]) -> list[bytes]:
            time.sleep(seconds)
            return self._reader.read(positions)

    if seconds:
        shard_reader.array_record_module = SimpleNamespace(ArrayRecordReader=RemoteReader)
    try:
        yield
    finally:
        shard_reader.array_record_module = module


def run(experiment: Experiment, num_steps: int) -> Waiting:
    """Trains for this many steps, and reads the metrics."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        settings = {"run_dir": f"{directory}/run", "log_every": 1, "eval_every": None}
        train(dataclasses.replace(experiment, **settings), stop=StopAfter(num_steps))
        lines = Path(directory, "run", "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "data_seconds" in row][FIRST_STEPS:]
    data, step = ([row[name] for row in rows] for name in ("data_seconds", "step_seconds"))
    return Waiting(
        sum(data) / sum(step),
        statistics.median(waited / whole for waited, whole in zip(data, step, strict=True)),
        (rows[-1]["num_tokens"] - rows[0]["num_tokens"]) / sum(step[1:]),
    )


def main() -> int:
    """Prints a line for every config and latency."""
    missed = False
    for name, num_steps in STEPS.items():
        experiment = load_config(name)
        run(experiment, FIRST_STEPS + 3)  # prepares the data and compiles
        found: dict[float, list[Waiting]] = {seconds: [] for seconds in LATENCIES}
        for _ in range(REPETITIONS):
            for seconds, its_runs in found.items():
                with latency(seconds):
                    its_runs.append(run(experiment, num_steps))
        for seconds, its_runs in found.items():
            share, median_share, rate = map(statistics.median, zip(*its_runs, strict=True))
            where = f"{seconds * 1e3:.0f} ms a read" if seconds else "disk"
            print(
                f"{name}, {where}: data_seconds {share:.2%} of the time, {median_share:.2%} of the median "
                f"step, bar {BAR:.0%}; {rate:,.0f} tokens/s",
                flush=True,
            )
            missed |= share > BAR
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
