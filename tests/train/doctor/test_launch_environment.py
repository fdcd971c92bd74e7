"""The launch environment: what would start, and settings that contradict each other."""

import os
import socket

import pytest

from flaxmill.train.doctor import launch_environment
from flaxmill.train.doctor.launch_environment import check_launch

SLURM = {
    "SLURM_JOB_ID": "4",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_TASKS_PER_NODE": "8",
}


def lines(environ, state):
    found = [one for one in check_launch(environ) if one.state == state]
    return [f"{one.what}; {one.fix}" if one.fix else one.what for one in found]


@pytest.fixture(autouse=True)
def all_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: len(os.sched_getaffinity(0)))


def test_nothing_set_is_one_process():
    assert lines({}, "ok") == ["1 process"]
    assert lines({}, "remark") == lines({}, "wrong") == []


def test_one_of_many_is_described():
    assert lines(SLURM, "ok") == [
        "process 3 of 8, counted from 0, coordinator localhost:61444 (Slurm); 8 on this machine"
    ]
    assert lines(SLURM, "wrong") == []


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        (
            {"JAX_PROCESS_ID": "0"},
            "JAX_PROCESS_ID=0 without JAX_NUM_PROCESSES; set both or neither",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "node1:1"},
            (
                "JAX_COORDINATOR_ADDRESS=node1:1 is set but nothing says how many processes there are; set "
                "JAX_NUM_PROCESSES and JAX_PROCESS_ID too, or unset it"
            ),
        ),
        (
            SLURM | {"JAX_PROCESS_ID": "0", "JAX_NUM_PROCESSES": "1"},
            (
                "JAX_NUM_PROCESSES=1 JAX_PROCESS_ID=0, but Slurm says process 3 of 8; unset "
                "JAX_NUM_PROCESSES and JAX_PROCESS_ID"
            ),
        ),
        (
            {"WORLD_SIZE": "4", "RANK": "1"},
            (
                "WORLD_SIZE=4 RANK=1 (torchrun) is not read: 4 processes would each train alone; set "
                "JAX_NUM_PROCESSES=4, JAX_PROCESS_ID=1 and JAX_COORDINATOR_ADDRESS"
            ),
        ),
        (
            {"PMI_SIZE": "2", "PMI_RANK": "0"},
            (
                "PMI_SIZE=2 PMI_RANK=0 (MPICH) is not read: 2 processes would each train alone; set "
                "JAX_NUM_PROCESSES=2, JAX_PROCESS_ID=0 and JAX_COORDINATOR_ADDRESS"
            ),
        ),
        (
            SLURM | {"SLURM_PROCID": "0", "JAX_COORDINATOR_BIND_ADDRESS": "here"},
            (
                "JAX_COORDINATOR_BIND_ADDRESS=here must be HOST:PORT, such as 0.0.0.0:8476; "
                "correct it, or unset it"
            ),
        ),
    ],
)
def test_contradictions_are_wrong(environ, line):
    assert lines(environ, "wrong") == [line]


def test_jax_variables_that_agree_with_the_launcher_are_not_wrong():
    agreeing = {"JAX_PROCESS_ID": "3", "JAX_NUM_PROCESSES": "8", "JAX_COORDINATOR_ADDRESS": "localhost:5"}
    assert lines(SLURM | agreeing, "wrong") == []


def test_a_coordinator_that_nobody_knows_is_wrong(monkeypatch):
    def fails(host, port):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    environ = {"JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": "nowhere:1234"}
    assert lines(environ, "wrong") == [
        (
            "the coordinator's host nowhere is not known here (Name or service not known); name an "
            "address that all machines know in JAX_COORDINATOR_ADDRESS"
        )
    ]


def test_a_port_that_is_taken_is_wrong_for_process_0():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        environ = {"JAX_PROCESS_ID": "0", "JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": address}
        environ["JAX_COORDINATOR_BIND_ADDRESS"] = address
        (line,) = lines(environ, "wrong")
    assert line.startswith(
        f"process 0 cannot listen on port {address.rpartition(':')[2]} (Address already in use"
    )
    assert lines(environ, "wrong") == []  # it has closed


def test_a_slurm_shell_that_is_no_task_is_a_remark():
    (line,) = lines({"SLURM_JOB_ID": "4", "SLURM_NTASKS": "8"}, "remark")
    assert line.startswith("a Slurm allocation of 8 tasks, of which this is none")
    assert line.endswith("start it with srun, as in srun flaxmill train")


def test_variables_that_decide_where_jax_computes_are_named(monkeypatch):
    environ = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_dump_to=/dump", "HOME": "/home/me"}
    assert lines(environ, "ok")[1] == "set: JAX_PLATFORMS=cpu XLA_FLAGS=--xla_dump_to=/dump"
    monkeypatch.setattr(launch_environment, "has_compilers_alone", lambda: True)  # flaxmill has set it itself
    assert lines(environ, "ok")[1] == "set: XLA_FLAGS=--xla_dump_to=/dump"


@pytest.mark.parametrize("value", ["1", "True"])
def test_what_makes_jax_slow_is_a_remark(value):
    assert lines({"JAX_DISABLE_JIT": value}, "remark") == [
        f"JAX_DISABLE_JIT={value}: every operation runs by itself; unset JAX_DISABLE_JIT to train"
    ]
    assert lines({"JAX_DISABLE_JIT": "0", "JAX_DEBUG_NANS": "false"}, "remark") == []


def test_fewer_threads_than_cores_are_a_remark(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert lines({"NPROC": "2"}, "remark") == ["the CPU computes with 2 of 16 cores: NPROC=2; unset it"]
    monkeypatch.setattr(os, "cpu_count", lambda: 32)
    assert lines({}, "remark") == ["the CPU computes with 16 of 32 cores: this process is bound to them"]
