"""Jobs of real processes on this machine, whose members die, fail, freeze or hang."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from launching import free_port

from flaxmill.sharding.processes.watch import Peers

HOST = socket.gethostname()
RESTART = "start all processes again, and the run continues from its last checkpoint"
HEARTBEAT_SECONDS = 6
WAIT_SECONDS = HEARTBEAT_SECONDS + 40  # a few more than needed, for a busy machine

BODY = """
import os, sys, time
import jax, jax.numpy as jnp, numpy as np
from flaxmill.sharding.processes.coordination import find_launch, start_processes
from flaxmill.sharding.processes.watch import Peers

index, number, port = map(int, sys.argv[1:4])
mode, heartbeat, stall = sys.argv[4], int(sys.argv[5]), int(sys.argv[6])
launch = find_launch({}, coordinator=f"localhost:{port}", num_processes=number, process_index=index)
start_processes(launch, heartbeat_seconds=heartbeat)
last = 10 if mode in ("finish", "late") else 10**9
with Peers(heartbeat_seconds=heartbeat, stall_seconds=stall) as peers:
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.NamedSharding(mesh, jax.P("data"))
    x = jax.make_array_from_process_local_data(spread, np.ones((2, 4), np.float32), (2 * number, 4))
    step_of = jax.jit(lambda x: 0.5 * x + jnp.sum(x) / x.size, out_shardings=spread)
    for step in range(last):
        peers.at(step, "training")
        if index == 1 and step == 80:
            if mode == "raise":
                raise FileNotFoundError("no shard 7 in /data")
            if mode == "hang":
                time.sleep(10**6)
            if mode == "stopped":
                peers.leave(143, "SIGTERM: stopping at once")
        if step == 80 and mode == "all stopped":
            peers.leave(130 + index, f"signal {2 + index}")
        if step == 80 and mode == "mistake":
            raise ValueError("batch_size=3 does not divide")
        x = step_of(x)
        x.block_until_ready()
        time.sleep(0.02)
        if index == 0 and step == 60:
            print("running", flush=True)
    if mode == "late" and index == 2:
        time.sleep(3)
print("done", float(x.addressable_data(0)[0, 0]), flush=True)
"""


class End(NamedTuple):
    code: int
    stdout: str
    stderr: str


class Job:
    def __init__(self, directory: Path, mode: str, number: int, heartbeat: int, stall: int) -> None:
        self.directory = directory
        script = directory / "body.py"
        script.write_text(BODY)
        port = free_port()
        environ = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "PYTHONFAULTHANDLER": "1"}
        self.processes = []
        for index in range(number):
            command = [sys.executable, script, index, number, port, mode, heartbeat, stall]
            with (directory / f"{index}.out").open("w") as out, (directory / f"{index}.err").open("w") as err:
                self.processes.append(
                    subprocess.Popen([str(word) for word in command], stdout=out, stderr=err, env=environ)
                )

    def wait_until_running(self) -> None:
        deadline = time.monotonic() + 120
        while "running" not in (self.directory / "0.out").read_text():
            assert time.monotonic() < deadline, "the job did not start"
            assert self.processes[0].poll() is None, (self.directory / "0.err").read_text()
            time.sleep(0.05)

    def wait(self, seconds: float, besides: int | None = None) -> dict[int, End]:
        """How each process ended, except process `besides`; all must end within the time."""
        deadline = time.monotonic() + seconds
        ends = {}
        for index, process in enumerate(self.processes):
            if index == besides:
                continue
            try:
                code = process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                pytest.fail(f"process {index} did not end:\n{self.stacks()}")
            ends[index] = End(
                code, *((self.directory / f"{index}.{kind}").read_text() for kind in ("out", "err"))
            )
        return ends

    def stacks(self) -> str:
        """The stacks of the processes that still run, and what all processes said."""
        for process in self.processes:
            process.send_signal(signal.SIGABRT)
            process.send_signal(signal.SIGCONT)
        time.sleep(2)
        return "\n".join(f"{path.name}: {path.read_text()}" for path in sorted(self.directory.glob("*.err")))


@contextmanager
def run_job(
    directory: Path, mode: str, *, number: int = 3, heartbeat: int = HEARTBEAT_SECONDS, stall: int = 600
) -> Iterator[Job]:
    job = Job(directory, mode, number, heartbeat, stall)
    try:
        yield job
    finally:
        for process in job.processes:
            process.kill()
            process.wait()


def expect_line(ends: dict[int, End], code: int, start: str, end: str) -> None:
    for index, (found, _, stderr) in ends.items():
        assert stderr.startswith(start), (index, found, stderr)
        assert stderr.endswith(end), (index, found, stderr)
        assert stderr.count("\n") == 1, (index, found, stderr)
        assert found == code, (index, found, stderr)


def test_one_process_is_left_alone() -> None:
    with Peers(heartbeat_seconds=1, stall_seconds=1) as peers:
        peers.at(0, "training")
        time.sleep(0.3)
        peers.finish()


@pytest.mark.parametrize("name", ["heartbeat_seconds", "stall_seconds"])
def test_times_below_a_second_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1 second"):
        Peers(**{"heartbeat_seconds": 1, "stall_seconds": 1, name: 0})


@pytest.mark.slow
def test_a_killed_process_is_named_by_all_others(tmp_path: Path) -> None:
    with run_job(tmp_path, "train", number=4) as job:
        job.wait_until_running()
        job.processes[2].kill()
        ends = job.wait(WAIT_SECONDS, besides=2)
    start = (
        f"flaxmill: error: process 2 ({HOST}, pid {job.processes[2].pid}) has not been heard from for 6 s; "
    )
    expect_line(ends, 1, start + "it was at step ", f", training: {RESTART}\n")


@pytest.mark.slow
def test_the_death_of_process_0_is_named_at_once(tmp_path: Path) -> None:
    with run_job(tmp_path, "train") as job:
        job.wait_until_running()
        job.processes[0].kill()
        ends = job.wait(WAIT_SECONDS, besides=0)
    start = (
        f"flaxmill: error: process 0 ({HOST}, pid {job.processes[0].pid}), to which all are connected, has"
    )
    expect_line(ends, 1, start + " ended; it was at step ", f", training: {RESTART}\n")


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_process_is_named_by_all_others(tmp_path: Path, frozen: int) -> None:
    with run_job(tmp_path, "train") as job:
        job.wait_until_running()
        job.processes[frozen].send_signal(signal.SIGSTOP)
        ends = job.wait(WAIT_SECONDS, besides=frozen)
        start = (
            f"flaxmill: error: process {frozen} ({HOST}, pid {job.processes[frozen].pid}) has not been heard "
        )
        # The place is the last that it reported, on a busy machine perhaps from before its first step.
        expect_line(ends, 1, start + "from for 6 s; it was ", f": {RESTART}\n")
        job.processes[frozen].send_signal(signal.SIGCONT)
        assert job.wait(WAIT_SECONDS)[frozen].code == 1


@pytest.mark.slow
def test_an_exception_in_one_process_ends_all_with_its_message(tmp_path: Path) -> None:
    with run_job(tmp_path, "raise") as job:
        job.wait_until_running()
        ends = job.wait(WAIT_SECONDS)
    raised = ends.pop(1)
    assert raised.code == 1
    assert raised.stderr.startswith("Traceback")
    assert raised.stderr.endswith("FileNotFoundError: no shard 7 in /data\n")
    expect_line(
        ends, 1, f"flaxmill: error: process 1 ({HOST}) failed: ", "FileNotFoundError: no shard 7 in /data\n"
    )


@pytest.mark.slow
def test_a_mistake_that_all_make_is_reported_by_each_as_its_own(tmp_path: Path) -> None:
    with run_job(tmp_path, "mistake") as job:
        job.wait_until_running()
        ends = job.wait(WAIT_SECONDS)
    for end in ends.values():
        assert end.code == 1
        assert end.stderr.startswith("Traceback")
        assert end.stderr.endswith("ValueError: batch_size=3 does not divide\n")


@pytest.mark.slow
def test_a_process_that_hangs_is_named_with_the_place_where_it_does(tmp_path: Path) -> None:
    with run_job(tmp_path, "hang", stall=5) as job:
        job.wait_until_running()
        ends = job.wait(WAIT_SECONDS)
    line = next(number for number, line in enumerate(BODY.split("\n"), 1) if "time.sleep(10**6)" in line)
    message = (
        f"flaxmill: error: process 1 ({HOST}, pid {job.processes[1].pid}) in body.py:{line} is stuck: "
        f"at step 80, training, for 5 s; {RESTART}\n"
    )
    expect_line(ends, 1, message, message)


@pytest.mark.slow
def test_a_process_told_to_stop_at_once_takes_all_with_it(tmp_path: Path) -> None:
    with run_job(tmp_path, "stopped") as job:
        job.wait_until_running()
        ends = job.wait(WAIT_SECONDS)
    assert ends.pop(1) == End(143, (tmp_path / "1.out").read_text(), "")
    line = f"flaxmill: process 1 ({HOST}): SIGTERM: stopping at once\n"
    expect_line(ends, 143, line, line)


@pytest.mark.slow
def test_processes_that_are_all_told_to_stop_end_alike(tmp_path: Path) -> None:
    """They end with the code of the first, though each had its own."""
    with run_job(tmp_path, "all stopped") as job:
        job.wait_until_running()
        ends = job.wait(WAIT_SECONDS)
    assert len({end.code for end in ends.values()}) == 1
    assert ends[0].code in (130, 131, 132)
    assert all("error" not in end.stderr for end in ends.values())


@pytest.mark.slow
def test_a_job_that_is_suspended_as_a_whole_accuses_nobody(tmp_path: Path) -> None:
    with run_job(tmp_path, "train", stall=6) as job:
        job.wait_until_running()
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for process in job.processes:
                process.send_signal(number)
            time.sleep(1.5 * HEARTBEAT_SECONDS)
        assert [process.poll() for process in job.processes] == [None] * 3


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["finish", "late"])
def test_a_job_ends_quietly_when_all_are_done(tmp_path: Path, mode: str) -> None:
    with run_job(tmp_path, mode) as job:
        ends = job.wait(120)
    assert [(end.code, end.stderr) for end in ends.values()] == [(0, "")] * 3
    assert len({end.stdout.splitlines()[-1] for end in ends.values()}) == 1
