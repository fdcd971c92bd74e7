"""Jobs of several processes, as a launcher starts them."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

from launching import PATIENCE, Job, free_port, quick_environment, step_rows

HEARTBEAT_SECONDS = 10


class Group:
    """The processes of one job, `flaxmill train` with two devices each unless `devices` says otherwise."""

    def __init__(
        self,
        config: Path,
        run_dir: Path,
        number: int,
        *flags: Any,
        before: str = "",
        devices: int = 2,
        own_flags: Mapping[int, Sequence[Any]] = MappingProxyType({}),
    ) -> None:
        """Start the processes, each after the program `before`; `own_flags` adds flags for some of them."""
        self.port = free_port()
        # Quick to compile: only the processes matter here.
        env = quick_environment(config.parent / "cache", JAX_NUM_CPU_DEVICES=str(devices))
        flags += ("--num-processes", number, "--heartbeat-seconds", HEARTBEAT_SECONDS, "--log-digests")
        flags += ("--coordinator", f"localhost:{self.port}")
        self.run_dir = run_dir
        self.jobs = [
            Job(
                *("train", config, "--run-dir", run_dir, *flags, "--process-index", index),
                *own_flags.get(index, ()),
                output=run_dir.with_name(f"{run_dir.name}-{index}.out"),
                env=env,
                before=before,
            )
            for index in range(number)
        ]

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *exception: object) -> None:
        with ExitStack() as stack:
            for job in self.jobs:
                stack.callback(job.kill)

    def wait(self, seconds: float = PATIENCE) -> list[int]:
        """All exit codes; the processes must end within so many seconds."""
        deadline = time.monotonic() + seconds
        return [job.wait(max(0.1, deadline - time.monotonic())) for job in self.jobs]

    def until_rows(self, number: int) -> bool:
        """Wait until metrics.jsonl has rows of so many steps; False if the job has ended before."""
        return self.jobs[0].until(lambda: count_steps(self.run_dir) >= number)

    @property
    def errors(self) -> str:
        return "\n".join(f"process {index}: {job.err}" for index, job in enumerate(self.jobs))


def count_steps(run_dir: Path) -> int:
    return len(step_rows(run_dir)) if (run_dir / "metrics.jsonl").exists() else 0
