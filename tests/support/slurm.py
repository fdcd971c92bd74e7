"""A Slurm of one node on this machine: its own daemons, files and ports, and nothing left when it ends."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from launching import PATIENCE, free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=10
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobRequeue=1
ReturnToService=2
KillWait=60
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
# cred_expire is how long a requeued job waits before it starts again: two minutes unless it is set.
UNTIL_THE_TESTS_END = ("setpriv", "--pdeathsig", "TERM")  # Linux ends a daemon if the tests are killed


def find_program(name: str) -> str | None:
    """A program's path; daemons are often not on a user's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Cluster:
    """The daemons; entering starts them, and leaving ends the jobs and them."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._stack = ExitStack()
        # Unix sockets' names may have 107 bytes, fewer than pytest's directories have.
        self.directory = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.env = {**env, "SLURM_CONF": str(self.directory / "slurm.conf")}

    def __enter__(self) -> Self:
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        # SIGTERM, as `timeout` sends it, must not skip what ends the jobs.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        self._stack.callback(signal.signal, signal.SIGTERM, before)
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        host = os.uname().nodename.split(".")[0]
        user = self.call("id", "-un").strip()
        for name in ("state", "spool"):
            (self.directory / name).mkdir()
        (self.directory / "slurm.conf").write_text(
            CONF.format(
                directory=self.directory,
                host=host,
                user=user,
                control_port=free_port(),
                node_port=free_port(),
            )
        )
        key = self.directory / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        munge = ["--foreground", "--force", f"--key-file={key}", f"--socket={self.directory}/munge.socket"]
        munge += [f"--{name}-file={self.directory}/munge.{name}" for name in ("pid", "log", "seed")]
        self._daemon("munged", *munge)
        self._until(lambda: (self.directory / "munge.socket").exists(), "munged to listen")
        self._daemon("slurmctld", "-D")
        self._daemon("slurmd", "-D")
        self._stack.callback(self._cancel_all)
        self._until(lambda: "idle" in self.call("sinfo", "--noheader", "--format=%T", check=False), "a node")

    def _daemon(self, name: str, *arguments: str) -> None:
        program = find_program(name)
        assert program is not None
        with (self.directory / f"{name}.out").open("wb") as out:
            process = subprocess.Popen(
                [*UNTIL_THE_TESTS_END, program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.env,
                start_new_session=True,  # Ctrl-C must reach the tests alone, which end the jobs first
            )
        self._stack.callback(_end, process)

    def _cancel_all(self) -> None:
        """End every job, and see that none of their processes outlives the daemons."""
        user = self.call("id", "-un").strip()
        self.call("scancel", "--signal=KILL", "--full", f"--user={user}", check=False)
        self.call("scancel", f"--user={user}", check=False)
        deadline = time.monotonic() + 30
        while self.call("squeue", "--noheader", check=False).strip() and time.monotonic() < deadline:
            time.sleep(0.2)

    def _until(self, happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 60
        while not happened():
            said = [path.read_text(errors="replace")[-2000:] for path in self.directory.glob("*.out")]
            assert time.monotonic() < deadline, f"waited 60 s for {what}:\n" + "\n".join(said)
            time.sleep(0.2)

    def call(self, *command: Any, check: bool = True) -> str:
        """The output of one of Slurm's commands."""
        ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=self.env)
        assert not check or ended.returncode == 0, ended.stderr
        return ended.stdout

    def submit(self, *command: Any) -> str:
        """The number of a new job."""
        return self.call("sbatch", "--parsable", *command).strip()

    def show(self, job: str) -> dict[str, str]:
        """What Slurm says of a job: JobState, Restarts, ExitCode and more."""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "show", "job", job)))

    def wait(
        self, job: str, happened: Callable[[dict[str, str]], bool], patience: float = PATIENCE
    ) -> dict[str, str]:
        """What Slurm says of a job once something holds."""
        deadline = time.monotonic() + patience
        while not happened(seen := self.show(job)):
            assert time.monotonic() < deadline, f"waited {patience} s: {seen}"
            time.sleep(0.3)
        return seen

    def end_of(self, job: str) -> dict[str, str]:
        """What Slurm says of a job that has ended for good."""
        return self.wait(
            job, lambda seen: seen["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
