"""docs/launch/mpirun.sh with a real Open MPI: two ranks, preempted, and continued bit for bit."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launchers import STEPS, Launched, Script, until_training
from launching import assert_same_end

pytestmark = pytest.mark.launch


@pytest.fixture
def start(launched: Launched, tmp_path: Path) -> Callable[..., Script]:
    assert shutil.which("mpirun"), "mpirun is missing; `make launch` installs it, or install openmpi-bin"
    env = launched.env | {
        "MPIRUN_FLAGS": "-n 2 --oversubscribe",
        # mpirun refuses root unless both are set.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }

    def start(*flags: Any, shell: str = "sh") -> Script:
        arguments = (launched.config, "--run-dir", tmp_path / "run", *flags)
        return Script("mpirun.sh", *arguments, shell=shell, env=env, log=tmp_path / "log")

    return start


def test_a_job_that_is_preempted_twice_ends_as_an_uninterrupted_one(
    launched: Launched, start: Callable[..., Script], tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    for shell, rows in (("sh", 10), ("bash", 40)):
        with start(shell=shell) as script:
            until_training(run, rows)
            script.process.send_signal(signal.SIGTERM)
            assert script.wait() == 75, log.read_text()
    with start() as script:
        assert script.wait() == 0, log.read_text()
    assert "in 2 processes" in log.read_text()
    assert_same_end(run, launched.straight, STEPS)


def test_a_mistake_keeps_its_exit_code(start: Callable[..., Script], tmp_path: Path) -> None:
    with start("--batch-size", 7) as script:
        assert script.wait() == 2
    assert "batch_size=7" in (tmp_path / "log").read_text()
