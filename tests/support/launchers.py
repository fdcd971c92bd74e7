"""A job of two processes as launchers start it, and the run of such a job that nothing interrupted."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, Self

from launching import PATIENCE, PROGRAM, count_rows, environment, free_port, write_experiment

FILES = Path(__file__).resolve().parents[2] / "docs" / "launch"
STEPS = 200  # two seconds of training or more, so that a signal after ten steps finds it running


class Launched(NamedTuple):
    """What a launcher is given.

    Attributes:
      env: variables, with a PATH on which `flaxmill` is the one under test.
      config: the experiment's file.
      straight: the run directory of an uninterrupted job, which was started by flags.
    """

    env: dict[str, str]
    config: Path
    straight: Path


def make_launched(directory: Path, corpus: Path) -> Launched:
    """Write the experiment, on a part of the corpus, and train it without interruption."""
    text = directory / "text.txt"
    text.write_text(corpus.read_text(encoding="utf-8")[:60_000], encoding="utf-8")
    program = directory / "bin" / "flaxmill"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{PROGRAM}\n")
    program.chmod(0o755)
    env = environment(directory / "cache", PATH=f"{program.parent}:{os.environ['PATH']}")
    env["XLA_FLAGS"] = os.environ["XLA_FLAGS"]  # quick to compile: only the processes matter here
    config = write_experiment(
        *(directory / "job.py", "causal", text),
        data_axis=2,
        steps=STEPS,
        batch_size=8,
        eval_batches=1,
        checkpoint={"every": 10 * STEPS},
    )
    launched = Launched(env, config, directory / "straight")
    _train_by_flags(launched)
    return launched


def _train_by_flags(launched: Launched) -> None:
    command = ["flaxmill", "train", str(launched.config), "--run-dir", str(launched.straight)]
    command += ["--coordinator", f"localhost:{free_port()}", "--num-processes", "2", "--process-index"]
    # Popen looks for a program on this process's PATH, and not on that of `env`.
    processes = [subprocess.Popen(["env", *command, index], env=launched.env) for index in "01"]
    try:
        assert [process.wait(PATIENCE) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


class Script:
    """One of the scripts that users copy, running; leaving the context leaves no process behind."""

    def __init__(
        self, name: str, *arguments: object, shell: str = "sh", env: dict[str, str], log: Path
    ) -> None:
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [shell, str(FILES / name), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=env,
            )

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE)


def until_training(run_dir: Path, rows: int = 10) -> None:
    """Wait until a run has made some steps."""
    deadline = time.monotonic() + PATIENCE
    while count_rows(run_dir) < rows:
        assert time.monotonic() < deadline, f"no {rows} steps in {PATIENCE} s"
        time.sleep(0.05)
