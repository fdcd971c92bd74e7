"""Measures how long a command takes to begin: training to its first step, a generated text, a refusal.

    python benchmarks/start.py [ROUNDS]

Each round trains gpt_tiny for one step with nothing prepared or compiled, trains it again with everything so,
generates a text from that run, and is refused a flag. Each is a process of its own on the CPU. Prints medians
over the rounds of the seconds from the start of the process, and of the CPU seconds of all of it; the exit
status is 1 if a bar is missed. Python's own compiled files are there before: a round runs unmeasured.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = ("imports", "data", "state", "first step", "exit", "CPU")
BARS = {
    ("train, nothing prepared", "first step"): 6.0,
    ("train, a second time", "first step"): 2.0,
    ("generate, a second time", "exit"): 2.5,
    ("a refusal", "exit"): 0.5,
}
ROUNDS = 3

# Prints when each stage is done; `flaxmill` itself says none of it.
PROGRAM = """
import json, sys, time
from flaxmill.train.command_line import main

def tell(stage):
    print("STAGE" + json.dumps([stage, time.time()]), flush=True)

def telling(function, stage):
    def call(*arguments, **named):
        result = function(*arguments, **named)
        tell(stage)
        return result
    return call

def import_and_train(*arguments):
    import jax
    from flaxmill.train import job, loop, recorder
    tell("imports")
    job.prepare_data = telling(job.prepare_data, "data")
    loop.Origin.start = telling(loop.Origin.start, "state")
    record = recorder.Recorder.record

    def record_first(self, step, metrics, seconds):
        jax.block_until_ready(metrics)
        tell("first step")
        record(self, step, metrics, seconds)

    recorder.Recorder.record = record_first
    return train_all(*arguments)

if sys.argv[1] == "train":
    from flaxmill.train.commands import train_command
    train_all, train_command._train_all = train_command._train_all, import_and_train
main()
"""

Times = dict[str, float]


def main() -> int:
    """Prints the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    one_round()
    measured = [one_round() for _ in range(rounds)]
    print(f"{'seconds':24}" + "".join(f"{stage:>12}" for stage in STAGES))
    missed = False
    for name in measured[0]:
        medians = {
            stage: statistics.median(times[name][stage] for times in measured) for stage in measured[0][name]
        }
        cells = (f"{medians[stage]:12.2f}" if stage in medians else " " * 12 for stage in STAGES)
        bars = {stage: bar for (row, stage), bar in BARS.items() if row == name}
        said = "".join(f"   {stage}: at most {bar}" for stage, bar in bars.items())
        print(f"{name:24}{''.join(cells)}{said}")
        missed |= any(medians[stage] > bar for stage, bar in bars.items())
    return int(missed)


def one_round() -> dict[str, Times]:
    """{command: {stage: seconds since its process was started, CPU: seconds of its processor time}}"""
    with tempfile.TemporaryDirectory() as directory:
        first, second = (
            ["train", "gpt_tiny", "--steps", "1", "--eval-batches", "1", "--run-dir", f"{directory}/{name}"]
            for name in ("first", "second")
        )
        generate = ["generate", f"{directory}/first", "The function", "--max-new-tokens", "32"]
        cache = Path(directory) / "cache"
        times = {
            "train, nothing prepared": run(first, cache),
            "train, a second time": run(second, cache),
        }
        run(generate, cache)
        return times | {
            "generate, a second time": run(generate, cache),
            "a refusal": run(["train", "gpt_tiny", "--stepz", "1"], cache, code=2),
        }


def run(arguments: list[str], cache: Path, code: int = 0) -> Times:
    """Seconds to each stage of one command, and its CPU seconds."""
    env = os.environ | {"FLAXMILL_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    before, began = cpu_seconds(), time.time()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], env=env, capture_output=True, text=True, check=False
    )
    ended = time.time()
    if done.returncode != code:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    lines = [line.removeprefix("STAGE") for line in done.stdout.splitlines() if line.startswith("STAGE")]
    stages = {stage: when - began for stage, when in map(json.loads, lines)}
    return stages | {"exit": ended - began, "CPU": cpu_seconds() - before}


def cpu_seconds() -> float:
    """Of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
