import logging
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from flaxmill.train.checkpoint.store import quiet_orbax, system_failure


def test_what_orbax_logs_is_dropped_and_no_more():
    quiet_orbax()

    def passes(name, path, text="text"):
        record = logging.LogRecord(name, logging.ERROR, path, 1, text, None, None)
        return bool(logging.getLogger(name).filter(record))

    assert not passes("absl", "/x/orbax/checkpoint/save.py")
    assert passes("absl", "/x/grain/reader.py")
    assert not passes("asyncio", "/x/asyncio/base_events.py", "<Task coro=</x/orbax/checkpoint/load.py>>")
    assert passes("asyncio", "/x/asyncio/base_events.py", "<Task coro=</x/other.py>>")


def test_what_is_absent_is_no_refusal_of_the_system():
    assert system_failure(FileNotFoundError(2, "No such file", "/x")) is None
    assert system_failure(ValueError("NOT_FOUND: gone [os_error_code='2']")) is None
    assert system_failure(ValueError("DATA_LOSS: mismatch")) is None
    assert str(system_failure(PermissionError(13, "denied", "/x"))) == "Permission denied: /x"


FULL = """
import sys, os, resource
from pathlib import Path
import jax.numpy as jnp
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig, Checkpoints
directory = Path(sys.argv[1])
small = {"params": {"x": jnp.arange(100_000, dtype=jnp.float32)}}
large = {"params": {"x": jnp.arange(1_500_000, dtype=jnp.float32)}}
with Checkpoints(directory, CheckpointConfig(keep_last=3)) as checkpoints:
    checkpoints.save(1, small, {})
    checkpoints.wait()
    if sys.argv[2] == "limit":  # no file may grow beyond it
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
    checkpoints.save(2, large, {})
    try:
        checkpoints.wait()
    except OSError as error:
        print(error)
    print(checkpoints.steps(), sorted(os.listdir(directory)))
    checkpoints.save(3, small, {})
    checkpoints.wait()
    print(checkpoints.steps(), sorted(os.listdir(directory)))
"""


def save_into_too_little(directory: Path, how: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(directory), how], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""  # Orbax's own traces stay off the terminal
    return done.stdout.splitlines()


def assert_only_that_save_failed(directory: Path, lines: list[str], reason: str) -> None:
    message, after, later = lines
    assert message.startswith(
        f"{directory}/2 could not be saved: {reason}: {directory}/2.orbax-checkpoint-tmp/"
    )
    assert "; nothing older was deleted" in message
    assert after.startswith("[1] ['1', '2.orbax-checkpoint-tmp")
    assert later == "[1, 3] ['1', '3']"


def test_a_save_on_a_full_disk_is_one_line_and_the_next_one_works(tmp_path):
    mounted = tmp_path / "disk"
    mounted.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", mounted], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"only root may mount a small disk ({mount.stderr.strip()}); the next test does without")
    try:
        lines = save_into_too_little(mounted / "checkpoints", "disk")
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)
    assert_only_that_save_failed(mounted / "checkpoints", lines, "No space left on device")
    assert lines[0].endswith("so make room and start again: the run continues from there")


def test_a_save_beyond_the_limit_of_a_file_is_one_line_and_the_next_one_works(tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    lines = save_into_too_little(tmp_path / "checkpoints", "limit")
    assert_only_that_save_failed(tmp_path / "checkpoints", lines, "File too large")
