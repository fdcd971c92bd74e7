"""A small run for tests that break it: what its user sees, and whether it recovers."""

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from launching import assert_same_end, values_of, write_experiment

from flaxmill.train.checkpoint.store import COMMIT_FILE
from flaxmill.train.command_line import main
from flaxmill.train.recorder import Recorder
from flaxmill.train.run.directory import CONFIG_FILE, TOKENIZER_FILE

STEPS, STOPPED_AT = 8, 5  # the stopped run has checkpoints 4 and 5
REDONE = "the steps since the last checkpoint are done again"
SAVING = "SIGTERM: saving and stopping; again to stop at once"
LEFT_FREE = 65_536  # bytes: rows of metrics fit, a checkpoint does not
Flaxmill = Callable[..., tuple[Any, str, str]]


class Seen(NamedTuple):
    """How a command ended, and its lines on stderr, with what differs between machines replaced."""

    code: int
    out: str
    lines: list[str]

    @property
    def said(self) -> str:
        return "\n".join(self.lines)


class FaultyJob:
    """The command that trains a run, given again and again while things go wrong."""

    def __init__(self, directory: Path, config: Path, straight: Path, flaxmill: Flaxmill) -> None:
        self.directory, self.config, self.straight = directory, config, straight
        self.flaxmill = flaxmill

    def train(self, *flags: Any) -> Seen:
        """Run `flaxmill train` in this process."""
        code, out, err = self.flaxmill("train", self.config, "--run-dir", self.directory, *flags)
        return self.seen(code, out, err)

    def seen(self, code: int, out: str, err: str) -> Seen:
        """What a user sees when a command has ended."""
        for pattern, word in (
            (re.escape(str(self.directory)), "RUN"),
            (re.escape(str(self.config.parent)), "FOLDER"),
            (rf"\d+ on {re.escape(socket.gethostname())}", "PID on HOST"),
            (r"\b([0-9a-f]{12}|[0-9a-f]{32})\b", "ID"),
        ):
            err = re.sub(pattern, word, err)
        own = [line for line in err.splitlines() if line.startswith("flaxmill: ")]
        return Seen(code, out, [line.removeprefix("flaxmill: ") for line in own])

    def continues(self, *flags: Any, steps: int = STEPS) -> Seen:
        """Give the command again: the run must end as if nothing had happened."""
        seen = self.train(*flags)
        assert seen.code == 0, seen.said
        self.assert_whole(steps)
        return seen

    def assert_whole(self, steps: int = STEPS) -> None:
        """Check that every row and array equals the straight run's; damaged checkpoints may be set aside."""
        for path in (self.directory / "checkpoints").glob("*.damaged"):
            shutil.rmtree(path)
        assert_same_end(self.directory, self.straight, steps)

    def saved_steps(self) -> list[int]:
        """The steps of committed checkpoints."""
        names = [path.parent.name for path in (self.directory / "checkpoints").glob(f"*/{COMMIT_FILE}")]
        return sorted(int(name) for name in names if name.isdecimal())

    def described(self) -> dict[str, bytes]:
        """The files that say what the run is, byte for byte."""
        return {name: (self.directory / name).read_bytes() for name in (CONFIG_FILE, TOKENIZER_FILE)}

    def largest_file(self, step: int) -> Path:
        """The file of a checkpoint that holds most of its arrays."""
        files = (self.directory / "checkpoints" / str(step)).rglob("*")
        return max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)

    def rows(self) -> list[int]:
        """Steps that have a row."""
        return sorted(values_of(self.directory))


def write_config(directory: Path, corpus: Path, **changes: Any) -> Path:
    """Write a file with the experiment of such a job."""
    settings: dict[str, Any] = {"steps": STEPS, "batch_size": 8, "eval_batches": 1} | changes
    settings.setdefault("checkpoint", {"every": 2})
    return write_experiment(directory / "job.py", "causal", corpus, **settings)


def run_here(config: Path, run_dir: Path) -> int:
    """Run `flaxmill train` in this process; returns its exit code."""
    with pytest.raises(SystemExit) as stop:
        main(["train", str(config), "--run-dir", str(run_dir)])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def at_step(patch: pytest.MonkeyPatch, number: int, act: Callable[[], Any]) -> None:
    """Call `act` once the metrics of step `number` have been recorded."""
    record = Recorder.record

    def watched(recorder: Recorder, step: int, metrics: Any, data_seconds: float) -> None:
        record(recorder, step, metrics, data_seconds)
        if step == number:
            act()

    patch.setattr(Recorder, "record", watched)


def stop_itself() -> None:
    """Send this process SIGTERM, as a scheduler does."""
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def mounted(directory: Path, size: str) -> Iterator[Callable[[str], None] | None]:
    """Mount a small file system at `directory`; gives a function that remounts it with other options, None if
    this user may not mount any."""
    directory.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield lambda options: _call("mount", "-o", f"remount,{options}", str(directory))
    finally:
        _call("umount", str(directory))


@contextlib.contextmanager
def short_of_disk(directory: Path) -> Iterator[None]:
    """Within this, nothing more can be written: the file system is full, or a kernel limit is reached."""
    ballast = directory / "ballast"
    if os.path.ismount(directory):
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        os.truncate(ballast, ballast.stat().st_size - LEFT_FREE)
        try:
            yield
        finally:
            ballast.unlink()
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LEFT_FREE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
