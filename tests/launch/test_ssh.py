"""docs/launch/ssh.sh, two processes: with a stand-in for ssh, and with OpenSSH where its server is there."""

import getpass
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from launchers import STEPS, Launched, Script, until_training
from launching import assert_same_end, free_port
from slurm import find_program

# A host's shell gets the words behind the host's name as one command, as it does from OpenSSH's server.
STAND_IN = '#!/bin/sh\n[ "$1" != nowhere ] || exit 255\nshift\nexec sh -c "$*"\n'
SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host
AuthorizedKeysFile {directory}/user.pub
StrictModes no
UsePAM no
PidFile none
"""
CLIENT = """
Host localhost 127.0.0.1
HostName 127.0.0.1
Port {port}
User {user}
IdentityFile {directory}/user
IdentitiesOnly yes
StrictHostKeyChecking no
UserKnownHostsFile {directory}/known
BatchMode yes
"""


@pytest.fixture(params=["stand-in", pytest.param("OpenSSH", marks=pytest.mark.launch)])
def ssh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """How to reach a host, as the script's variable SSH says it."""
    if request.param == "stand-in":
        program = tmp_path / "ssh"
        program.write_text(STAND_IN)
        program.chmod(0o755)
        yield str(program)
        return
    sshd = find_program("sshd")
    if sshd is None:
        pytest.skip("sshd is not installed")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    words = dict(port=free_port(), directory=tmp_path, user=getpass.getuser())
    (tmp_path / "server").write_text(SERVER.format(**words))
    (tmp_path / "client").write_text(CLIENT.format(**words))
    command = f"ssh -F {tmp_path}/client"
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen([sshd, "-D", "-e", "-f", tmp_path / "server"], stderr=log)
    try:
        deadline = time.monotonic() + 30
        while subprocess.run([*command.split(), "localhost", "true"], capture_output=True).returncode:
            assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
            time.sleep(0.2)
        yield command
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def start(launched: Launched, ssh: str, tmp_path: Path) -> Callable[..., Script]:
    env = launched.env | {
        "HOSTS": "localhost 127.0.0.1",
        "PORT": str(free_port()),
        "SSH": ssh,
        "FLAXMILL": str(launched.config.parent / "bin" / "flaxmill"),
        "FLAXMILL_JOB_TOKEN": "not to be seen",
    }

    def start(*flags: Any, hosts: str = "localhost 127.0.0.1", shell: str = "sh") -> Script:
        arguments = (launched.config, "--run-dir", tmp_path / "it's a run", *flags)
        return Script("ssh.sh", *arguments, shell=shell, env=env | {"HOSTS": hosts}, log=tmp_path / "log")

    return start


@pytest.mark.slow
def test_a_job_that_is_preempted_twice_ends_as_an_uninterrupted_one(
    launched: Launched, start: Callable[..., Script], tmp_path: Path
) -> None:
    run, log = tmp_path / "it's a run", tmp_path / "log"
    for shell, rows in (("sh", 10), ("bash", 40)):
        with start(shell=shell) as script:
            until_training(run, rows)
            script.process.send_signal(signal.SIGTERM)
            assert script.wait() == 75, log.read_text()
        assert "process 0 on localhost ended with 75" in log.read_text()
        assert "process 1 on 127.0.0.1 ended with 75" in log.read_text()
    with start() as script:
        assert script.wait() == 0, log.read_text()
    assert "in 2 processes" in log.read_text()
    assert_same_end(run, launched.straight, STEPS)


@pytest.mark.slow
def test_nothing_is_left_running_when_the_script_is_killed(
    start: Callable[..., Script], tmp_path: Path
) -> None:
    run, log = tmp_path / "it's a run", tmp_path / "log"
    with start("--steps", 100 * STEPS) as script:
        until_training(run)
        script.process.kill()
        deadline = time.monotonic() + 60
        while "process 0 on localhost ended with 75" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


@pytest.mark.slow
def test_a_mistake_and_a_host_that_is_not_there_end_all_at_once(
    start: Callable[..., Script], tmp_path: Path
) -> None:
    with start("--batch-size", 7) as script:
        assert script.wait() == 2
    assert "batch_size=7" in (tmp_path / "log").read_text()
    began = time.monotonic()
    with start(hosts="localhost nowhere") as script:
        assert script.wait() == 255
    assert time.monotonic() - began < 60  # processes wait five minutes for each other
    assert "process 1 on nowhere ended with 255" in (tmp_path / "log").read_text()
