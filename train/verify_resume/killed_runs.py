"""The processes of `flaxmill verify-resume`: one left alone, one killed, one that continues."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from flaxmill.train.checkpoint.directory import find_steps
from flaxmill.train.failures import EXIT_DONE, EXIT_MISTAKE, RunError
from flaxmill.train.metrics.metrics_file import MetricsRow, read_metrics
from flaxmill.train.run.directory import CHECKPOINTS, METRICS_FILE

TRAIN = "from flaxmill.train.command_line import main; main()"
PROBE = "from flaxmill.train.verify_resume.trial import probe; probe()"
SECONDS_BETWEEN_LOOKS = 0.002
LAST_LINES = 15  # of a process that failed


class Kill(NamedTuple):
    """What a killed process left: its rows, and the checkpoint to continue from."""

    rows: list[MetricsRow]
    checkpoint: int


def probe_trials(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `trial.probe` prints about these trials.

    Raises:
      ValueError: these devices cannot run them.
      RunError: the process failed.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(list(trials))], capture_output=True, text=True, check=False
    )
    if done.returncode == EXIT_MISTAKE:
        raise ValueError(done.stderr.strip().rpartition("\n")[2])
    if done.returncode != EXIT_DONE:
        _show_last_lines(done.stderr)
        raise RunError(f"looking at the devices failed with exit code {done.returncode}: see the lines above")
    return json.loads(done.stdout.strip().rpartition("\n")[2])


def run_to_end(config: Path, what: str, *, refusal: type[Exception] = RunError) -> float:
    """Train the config file in its own process; returns the seconds. `what` names the run in errors.

    Raises:
      refusal: the process said that something given is a mistake.
      RunError: it failed.
    """
    started = time.monotonic()
    with _process(config) as process:
        process.wait()
    if process.returncode != EXIT_DONE:
        _raise_failure(process.returncode, _log(config), what, refusal)
    return time.monotonic() - started


def run_until_killed(config: Path, run_dir: Path, kill_after: int, num_steps: int) -> Kill | None:
    """Train the config file and send SIGKILL once the row of step `kill_after` and a checkpoint are on disk.

    Returns:
      None if the run was over before that.

    Raises:
      RunError: the process failed by itself.
    """
    with _process(config) as process:
        while process.poll() is None and not _is_due(run_dir, kill_after):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        _kill(process)
    if process.returncode not in (EXIT_DONE, -signal.SIGKILL):
        _raise_failure(process.returncode, _log(config), "the run to be killed", RunError)
    newest = max(find_steps(run_dir / CHECKPOINTS), default=None)
    if process.returncode == EXIT_DONE or newest is None or newest >= num_steps:
        return None
    return Kill(list(read_metrics(run_dir / METRICS_FILE)), newest)


def _is_due(run_dir: Path, kill_after: int) -> bool:
    """Whether the row and a checkpoint before it are on disk; each step writes a row, so rows are counted."""
    metrics = run_dir / METRICS_FILE
    num_rows = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
    steps = find_steps(run_dir / CHECKPOINTS)
    return num_rows > kill_after and bool(steps) and num_rows > max(steps)


@contextlib.contextmanager
def _process(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `flaxmill train` on the file, with its output next to it; leaving the context ends the process."""
    with _log(config).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", TRAIN, "train", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that all that it starts can be killed with it
        )
    try:
        yield process
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _log(config: Path) -> Path:
    return config.with_suffix(".log")


def _raise_failure(code: int, log: Path, what: str, refusal: type[Exception]) -> NoReturn:
    text = log.read_text(encoding="utf-8", errors="replace")
    said = text.strip().rpartition("\n")[2].removeprefix("flaxmill: error: ")
    if code == EXIT_MISTAKE:
        raise refusal(f"{what} was refused: {said}")
    _show_last_lines(text)
    ended = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    raise RunError(f"{what} ended {ended}: {said:.300}")


def _show_last_lines(text: str) -> None:
    for line in text.strip().splitlines()[-LAST_LINES:]:
        print(f"  | {line}", file=sys.stderr)
