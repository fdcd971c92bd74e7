"""Who a process is among many, how they meet, and what they agree on."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launching import free_port

from flaxmill.sharding.processes.coordination import agree_on, any_process, is_main, share_of_gpus
from flaxmill.sharding.processes.launch import Launch, bind_address, find_launch

SLURM = {
    "SLURM_JOB_ID": "100000",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "node[003-004]",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_MCA_ess_base_jobid": "1531576320",
}
TPU = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "t0.svc,t1.svc,t2.svc,t3.svc"}
SLICES = {
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "job-slice-0-0.job:8080",
}
JOBSET = {"JOBSET_NAME": "run", "REPLICATED_JOB_NAME": "workers", "JOB_COMPLETION_INDEX": "2"}
JAX = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}
XPK = {
    "JAX_COORDINATOR_ADDRESS": "run-slice-job-0-0.run",
    "JAX_COORDINATOR_PORT": "6002",
    "NNODES": "2",
    "NODE_RANK": "1",
}
SLURM_PORT, OPEN_MPI_PORT = 61440 + 100000 % 4096, 61440 + 1531576320 % 4096


@pytest.mark.parametrize(
    ("environ", "launch"),
    [
        (JAX, Launch("10.0.0.1:1234", 4, 2, 0, 1, "JAX variables")),
        (
            {**JAX, "JAX_COORDINATOR_ADDRESS": "localhost:1"},
            Launch("localhost:1", 4, 2, 2, 4, "JAX variables"),
        ),
        ({**SLURM, **JAX}, Launch("10.0.0.1:1234", 4, 2, 0, 1, "JAX variables")),
        (SLURM, Launch(f"node003:{SLURM_PORT}", 8, 5, 1, 4, "Slurm")),
        ({**SLURM, "SLURM_STEP_ID": "2"}, Launch(f"node003:{SLURM_PORT + 194}", 8, 5, 1, 4, "Slurm")),
        (
            {**SLURM, "JAX_COORDINATOR_ADDRESS": "10.0.0.9"},
            Launch(f"10.0.0.9:{SLURM_PORT}", 8, 5, 1, 4, "Slurm"),
        ),
        (OPEN_MPI, Launch(f"10.96.0.1:{OPEN_MPI_PORT}", 4, 3, 1, 2, "Open MPI")),
        (
            {**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp6://[fe80::b9b:1,2620::2]:43370"},
            Launch(f"[fe80::b9b:1]:{OPEN_MPI_PORT}", 4, 3, 1, 2, "Open MPI"),
        ),
        (
            {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_MCA_orte_hnp_uri": ""},
            Launch(f"127.0.0.1:{OPEN_MPI_PORT}", 4, 3, 1, 4, "Open MPI"),
        ),
        # mpirun starts its daemons with srun, whose variables the ranks inherit.
        (
            {**SLURM, **OPEN_MPI, "SLURM_JOB_NODELIST": "node[003-004]"},
            Launch(f"node003:{OPEN_MPI_PORT}", 4, 3, 1, 2, "Open MPI"),
        ),
        (TPU, Launch("t0.svc:8482", 4, 1, 0, 1, "TPU slice")),
        ({**TPU, **SLICES, **JOBSET}, Launch("job-slice-0-0.job:8482", 8, 5, 0, 1, "TPU slice")),
        (
            {"TPU_WORKER_ID": "0", "TPU_PROCESS_ADDRESSES": "10.0.0.1:8471,10.0.0.2:8471"},
            Launch("10.0.0.1:8482", 2, 0, 0, 1, "TPU slice"),
        ),
        (
            {**JOBSET, "JAX_NUM_PROCESSES": "4"},
            Launch("run-workers-0-0.run:8476", 4, 2, 0, 1, "JobSet"),
        ),
        (
            {**JOBSET, "JAX_PROCESS_COUNT": "8", "JOB_INDEX": "1", "PROCESSES_IN_JOB": "4"},
            Launch("run-workers-0-0.run:8476", 8, 6, 0, 1, "JobSet"),
        ),
        (XPK, Launch("run-slice-job-0-0.run:6002", 2, 1, 0, 1, "NNODES")),
        ({**XPK, **JOBSET}, Launch("run-slice-job-0-0.run:6002", 2, 1, 0, 1, "NNODES")),
        (
            {"JAX_COORDINATOR_IP": "10.0.0.1", "JAX_COORDINATOR_PORT": "77", "NNODES": "2", "NODE_RANK": "0"},
            Launch("10.0.0.1:77", 2, 0, 0, 1, "NNODES"),
        ),
    ],
)
def test_a_launchers_variables_say_who_a_process_is(environ: dict[str, str], launch: Launch) -> None:
    assert find_launch(environ) == launch


def test_flags_come_before_every_variable() -> None:
    found = find_launch({**JAX, **SLURM}, coordinator="[::1]:9", num_processes=2, process_index=1)
    assert found == Launch("[::1]:9", 2, 1, 1, 2, "flags")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HOSTNAME": "laptop", "CUDA_VISIBLE_DEVICES": "0"},
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        # The script of sbatch, or the shell of salloc: eight tasks are allocated and this is none of them.
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "a,b"},
        {name: "1" if name.endswith("SIZE") else "0" for name in OPEN_MPI},
        {"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"},
        {"JOB_COMPLETION_INDEX": "0"},
        {**JOBSET, "JAX_NUM_PROCESSES": "1", "JOB_COMPLETION_INDEX": "0"},
        {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
        {"NNODES": "4", "NODE_RANK": "1"},
        {**XPK, "NNODES": "1", "NODE_RANK": "0"},
    ],
)
def test_a_process_alone_needs_no_coordinator(environ: dict[str, str]) -> None:
    assert find_launch(environ) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-0015],host2", "node001"),
        ("node[001,007-015],host2", "node001"),
        ("rack[3-4]n[07-09]", "rack3n07"),
        ("c[12]-ib,d1", "c12-ib"),
    ],
)
def test_the_first_of_slurms_nodes_is_process_0s(nodes: str, first: str) -> None:
    launch = find_launch({**SLURM, "SLURM_STEP_NODELIST": nodes})
    assert launch is not None
    assert launch.coordinator == f"{first}:{SLURM_PORT}"


@pytest.mark.parametrize(("node", "count"), [("0", 4), ("1", 4), ("2", 3)])
def test_slurms_tasks_are_counted_for_the_node(node: str, count: int) -> None:
    launch = find_launch({**SLURM, "SLURM_NODEID": node, "SLURM_STEP_TASKS_PER_NODE": "4(x2),3"})
    assert launch is not None
    assert launch.local_count == count


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({**JAX, "JAX_PROCESS_ID": "4"}, "process index 4 of 4 processes; it must be from 0 to 3"),
        ({**JAX, "JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID='-1' must be a whole number from 0"),
        ({**JAX, "JAX_NUM_PROCESSES": "0"}, "0 processes; there must be at least 1"),
        ({**JAX, "JAX_COORDINATOR_ADDRESS": "host:99999"}, "coordinator 'host:99999' must be HOST:PORT"),
        ({**JAX, "JAX_COORDINATOR_ADDRESS": "host"}, "JAX_COORDINATOR_ADDRESS=host has no port"),
        ({"JAX_PROCESS_ID": "1"}, "JAX_PROCESS_ID=1 without JAX_NUM_PROCESSES; set both"),
        ({"JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": "2"}, "without JAX_COORDINATOR_ADDRESS; set it to"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "nothing says how many processes there are; set JAX_NUM_"),
        ({**SLURM, "SLURM_PROCID": "x"}, "SLURM_PROCID='x' must be a whole number"),
        ({**SLURM, "SLURM_STEP_ID": "x"}, "SLURM_STEP_ID='x' must be a whole number"),
        ({**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": ""}, "add to mpirun: -x JAX_COORDINATOR_ADDRESS=HOST:PORT"),
        ({**TPU, "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "0"}, "without MEGASCALE_COORDINATOR"),
        ({**TPU, "TPU_WORKER_ID": "9"}, "TPU slice: process index 9 of 4 processes"),
        (JOBSET, "JOBSET_NAME=run without a number of processes; set JAX_NUM_PROCESSES"),
    ],
)
def test_contradictions_are_refused_in_one_line(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        find_launch(environ)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "bound"),
    [
        (None, ("", 1234)),
        ("", ("", 1234)),
        ("0.0.0.0:9", ("", 9)),
        ("[::]:9", ("", 9)),
        ("10.0.0.1:9", ("10.0.0.1", 9)),
        ("[fe80::1]:9", ("fe80::1", 9)),
    ],
)
def test_process_0_listens_where_it_is_told_to(address: str | None, bound: tuple[str, int]) -> None:
    launch = Launch("10.0.0.1:1234", 4, 0, 0, 1, "flags")
    environ = {} if address is None else {"JAX_COORDINATOR_BIND_ADDRESS": address}
    assert bind_address(environ, launch) == bound


@pytest.mark.parametrize("address", ["nonsense", ":9", "host:", "host:99999", "fe80::1:9"])
def test_what_is_no_address_is_refused(address: str) -> None:
    launch = Launch("10.0.0.1:1234", 4, 0, 0, 1, "flags")
    with pytest.raises(ValueError, match=f"^JAX_COORDINATOR_BIND_ADDRESS={address} must be HOST:PORT"):
        bind_address({"JAX_COORDINATOR_BIND_ADDRESS": address}, launch)


def test_some_of_the_three_flags_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^--num-processes=2 without --coordinator and --process-index; give"
    ):
        find_launch({}, num_processes=2)


def _on_a_node(local_index: int, local_count: int) -> Launch:
    return Launch("a:1", 8, local_index, local_index, local_count, "Slurm")


@pytest.mark.parametrize(
    ("local", "visible", "num_gpus", "share"),
    [
        ((0, 1), None, 8, None),  # one process a node sees all
        ((0, 1), "0,1,2,3", 8, None),
        ((1, 2), None, 8, [4, 5, 6, 7]),
        ((3, 8), None, 8, [3]),
        ((1, 4), "0,1,2,3,4,5,6,7", 8, [2, 3]),
        ((1, 4), "5", 8, None),  # bound to its own by Slurm
        ((1, 4), "2,3", 8, None),
        ((1, 4), None, 1, None),  # a container with one
        ((1, 2), None, 0, None),  # CPU or TPU
    ],
)
def test_the_processes_of_a_node_share_its_gpus_evenly(
    local: tuple[int, int], visible: str | None, num_gpus: int, share: list[int] | None
) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert share_of_gpus(_on_a_node(*local), environ, num_gpus) == share


def test_gpus_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="8 GPUs do not divide over the 3 processes of this node"):
        share_of_gpus(_on_a_node(0, 3), {}, 8)


def test_a_process_alone_agrees_with_itself() -> None:
    assert is_main()
    assert any_process(True)
    assert not any_process(False)
    assert agree_on("text") == "text"


AGREEMENT = """
import sys
from flaxmill.sharding.processes.coordination import (
    agree_on, any_process, disconnect, is_main, start_processes
)
from flaxmill.sharding.processes.launch import find_launch

port, index = sys.argv[1:]
launch = find_launch({}, coordinator=f"localhost:{port}", num_processes=3, process_index=int(index))
start_processes(launch, heartbeat_seconds=60)
words = [agree_on(f"from {index}"), any_process(index == "2"), any_process(False), agree_on(2 * index)]
words.append(is_main())
import jax
print(words, len(jax.devices()), len(jax.local_devices()), jax.process_index())
any_process(False)
disconnect()
"""


@pytest.mark.slow
def test_three_processes_agree_and_share_their_devices(tmp_path: Path) -> None:
    script, port = tmp_path / "agreement.py", free_port()
    script.write_text(AGREEMENT)
    environ = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "http_proxy": "http://127.0.0.1:9"}
    commands = [[sys.executable, str(script), str(port), str(index)] for index in range(3)]
    jobs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
        for command in commands
    ]
    for index, job in enumerate(jobs):
        out, err = job.communicate(timeout=120)
        assert (job.returncode, err) == (0, "")
        assert out.splitlines()[-1] == f"['from 0', True, False, '00', {index == 0}] 6 2 {index}"
