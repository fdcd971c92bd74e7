"""Checks that memory, open files and step time stay flat while a run trains, saves and evaluates for long.

    python benchmarks/soak.py [--minutes 20]

Trains a small GPT in a process of its own with a save every 20 s and evaluations in between, and looks every
few seconds at its resident memory and open files, and at the step times in its metrics. The first quarter is
warm-up; the medians of the second and the last quarter are printed. The bars: resident memory grows by less
than 2%, file descriptors not at all, step time by less than 10%; the exit status is 1 if one is missed.
"""

import argparse
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from flaxmill.train.metrics.metrics_file import read_metrics

SAMPLE_SECONDS = 2.0
PATIENCE_SECONDS = 120
MAX_GROWTH = {"resident memory": 1.02, "file descriptors": 1.0, "step seconds": 1.10}
COMMAND = [
    *(sys.executable, "-c", "from flaxmill.train.command_line import main; main()", "train", "gpt_tiny"),
    *("--steps", "100000000", "--batch-size", "8", "--log-every", "1", "--data.embedded", "prose"),
    *("--model.num-layers", "2", "--model.embed-dim", "128", "--model.num-heads", "4"),
    *("--data.sequence-length", "128", "--eval-every", "200", "--eval-batches", "4"),
    *("--checkpoint.every", "100000000", "--checkpoint.every-minutes", "0.33"),
]


class Sample(NamedTuple):
    """What /proc says about the process, some seconds after its first step."""

    seconds: float
    resident_bytes: int
    num_files: int


def main() -> None:
    parser = argparse.ArgumentParser(description="A long run stays as it was.")
    parser.add_argument("--minutes", type=float, default=20.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="flaxmill-soak-") as directory:
        run_dir = Path(directory) / "run"
        environ = {**os.environ, "FLAXMILL_CACHE": str(Path(directory) / "cache")}
        with (Path(directory) / "output").open("w+") as output:
            process = subprocess.Popen(
                [*COMMAND, "--run-dir", str(run_dir)], stdout=output, stderr=output, env=environ
            )
            try:
                samples = watch(process, run_dir / "metrics.jsonl", 60 * minutes)
                process.send_signal(signal.SIGTERM)
                code = process.wait(PATIENCE_SECONDS)
            finally:
                process.kill()
                process.wait()
            output.seek(0)
            if code != 75:
                sys.exit(f"the run ended with {code}:\n{output.read()}")
        sys.exit(report(samples, run_dir))


def watch(process: subprocess.Popen, metrics: Path, seconds: float) -> list[Sample]:
    """Take samples from the first step on."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (metrics.exists() and metrics.stat().st_size):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit("no step was made")
        time.sleep(0.1)
    samples, started = [], time.monotonic()
    while (passed := time.monotonic() - started) < seconds and process.poll() is None:
        proc = Path(f"/proc/{process.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        num_files = sum(1 for _ in (proc / "fd").iterdir())
        samples.append(Sample(passed, int(status["VmRSS"].split()[0]) * 1024, num_files))
        time.sleep(SAMPLE_SECONDS)
    return samples


def report(samples: list[Sample], run_dir: Path) -> int:
    """Print the medians of two quarters; returns 1 if a bar is missed."""
    rows = list(read_metrics(run_dir / "metrics.jsonl"))
    step_seconds = [row["step_seconds"] for row in rows if "step_seconds" in row]
    num_evaluations = sum("eval_loss" in row for row in rows)
    saved = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    print(f"{samples[-1].seconds / 60:.1f} minutes, {len(step_seconds)} steps, {num_evaluations} evaluations")
    print(f"checkpoints at the end: {', '.join(saved)}\n")
    measured = {
        "resident memory": [sample.resident_bytes / 2**20 for sample in samples],
        "file descriptors": [float(sample.num_files) for sample in samples],
        "step seconds": step_seconds,
    }
    print(f"{'':18}{'second quarter':>16}{'last quarter':>16}{'ratio':>9}{'bar':>7}")
    missed = 0
    for name, values in measured.items():
        second, last = (statistics.median(part) for part in quarters(values)[1::2])
        missed |= last > MAX_GROWTH[name] * second
        print(f"{name:18}{second:16.4f}{last:16.4f}{last / second:9.3f}{MAX_GROWTH[name]:7.2f}")
    return int(missed)


def quarters(values: list[float]) -> list[list[float]]:
    bounds = [len(values) * part // 4 for part in range(5)]
    return [values[start:end] for start, end in itertools.pairwise(bounds)]


if __name__ == "__main__":
    main()
