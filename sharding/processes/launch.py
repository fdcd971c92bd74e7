"""How this process was started: alone, or as one of many that flags or a cluster's launcher describe.

It reads variables and touches no device. JAX's own detection is not used: it gives each Slurm task one GPU
even where a task has a node of its own, and takes an allocation of one task for a cluster.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

Environment = Mapping[str, str]

KUBERNETES_PORT = 8476
TPU_PORT = 8482
_JOB_PORTS = (61440, 4096)  # first and number: above Linux's range for outgoing connections
_ADDRESS = re.compile(r"([^:\[\]]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}")
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class Launch(NamedTuple):
    """One of several processes.

    Attributes:
      coordinator: HOST:PORT on which process 0 meets the others.
      local_index: which of the `local_count` processes on its machine this is; they share its GPUs.
      source: what said so.
    """

    coordinator: str
    num_processes: int
    process_index: int
    local_index: int
    local_count: int
    source: str


def find_launch(
    environ: Environment,
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_index: int | None = None,
) -> Launch | None:
    """What flags, else the JAX variables, Open MPI, Slurm, a TPU slice or a JobSet say; None: one process.

    Open MPI comes before Slurm, whose variables under `mpirun` describe mpirun's own daemons.

    Raises:
      ValueError: a value is not a number or out of range, or only some values that belong together are given.
    """
    flags = {
        "--coordinator": coordinator,
        "--num-processes": num_processes,
        "--process-index": process_index,
    }
    if any(value is not None for value in flags.values()):
        if None in flags.values():
            missing = " and ".join(name for name, value in flags.items() if value is None)
            raise ValueError(f"{_listed(flags)} without {missing}; give all three flags or none")
        assert coordinator is not None
        assert num_processes is not None
        assert process_index is not None
        return _started_by_hand(coordinator, num_processes, process_index, "flags")
    for find in (_from_jax, _from_nodes, _from_open_mpi, _from_slurm, _from_tpu, _from_jobset):
        is_found, launch = find(environ)
        if is_found:
            return launch
    if address := environ.get("JAX_COORDINATOR_ADDRESS"):
        raise ValueError(
            f"JAX_COORDINATOR_ADDRESS={address} is set but nothing says how many processes there are; "
            "set JAX_NUM_PROCESSES and JAX_PROCESS_ID too, or unset it"
        )
    return None


Found = tuple[bool, Launch | None]
"""Whether this launcher started the process, and as which of many (None: the only one)."""


def _from_jax(environ: Environment) -> Found:
    names = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = {name: environ.get(name) for name in names}
    if given["JAX_PROCESS_ID"] is None:
        return False, None  # JAX_NUM_PROCESSES alone completes what a launcher says
    if None in given.values():
        raise ValueError(f"{_listed(given)} without JAX_NUM_PROCESSES; set both or neither")
    num_processes, index = (_number(environ, name) for name in names)
    if num_processes == 1:
        return True, _checked("", 1, index, 0, 1, "JAX variables")
    address = _given_coordinator(environ, default_port=None)
    if address is None:
        raise ValueError(f"{_listed(given)} without JAX_COORDINATOR_ADDRESS; set it to process 0's HOST:PORT")
    return True, _started_by_hand(address, num_processes, index, "JAX variables")


def _from_nodes(environ: Environment) -> Found:
    """NNODES and NODE_RANK, as MaxText's and xpk's GPU jobs set them; torchrun sets other variables."""
    address = _given_coordinator(environ, default_port=KUBERNETES_PORT)
    if address is None or "NNODES" not in environ or "NODE_RANK" not in environ:
        return False, None
    num_processes, index = _number(environ, "NNODES"), _number(environ, "NODE_RANK")
    return True, _checked(address, num_processes, index, 0, 1, "NNODES")


def _from_open_mpi(environ: Environment) -> Found:
    if "OMPI_COMM_WORLD_RANK" not in environ:
        return False, None
    num_processes, index, local_index, local_count = (
        _number(environ, f"OMPI_COMM_WORLD_{name}") for name in ("SIZE", "RANK", "LOCAL_RANK", "LOCAL_SIZE")
    )
    if num_processes == 1:
        return True, _checked("", 1, index, local_index, local_count, "Open MPI")
    job = re.match(r"\D*(\d+)", environ.get("OMPI_MCA_ess_base_jobid", environ.get("PMIX_NAMESPACE", "")))
    port = _job_port(int(job[1]) if job else 0)
    host = "127.0.0.1" if local_count == num_processes else _open_mpi_host(environ)
    address = _given_coordinator(environ, default_port=port) or (host and f"{host}:{port}")
    if not address:
        raise ValueError(
            f"OMPI_COMM_WORLD_SIZE={num_processes} over several nodes, but Open MPI does not say where "
            "process 0 is; add to mpirun: -x JAX_COORDINATOR_ADDRESS=HOST:PORT of the first node"
        )
    return True, _checked(address, num_processes, index, local_index, local_count, "Open MPI")


def _open_mpi_host(environ: Environment) -> str | None:
    """Rank 0's machine: the first of a Slurm allocation, else mpirun's own, which Open MPI 4 names."""
    if nodes := environ.get("SLURM_JOB_NODELIST"):
        return _first_host(nodes)
    uri = environ.get("OMPI_MCA_orte_hnp_uri", "")
    match = re.search(r"tcp://([^,:]+)|tcp6://\[([^,\]]+)", uri)
    return match and (match[1] or f"[{match[2]}]")


def _from_slurm(environ: Environment) -> Found:
    # Only srun sets SLURM_STEP_NUM_TASKS: in the script of sbatch or the shell of salloc nothing else runs,
    # however many tasks were allocated.
    if "SLURM_STEP_NUM_TASKS" not in environ:
        return False, None
    num_processes = _number(environ, "SLURM_STEP_NUM_TASKS")
    if num_processes == 1:
        return False, None  # one task may still be a pod's only process of its node
    index, local_index, job = (
        _number(environ, name) for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID")
    )
    step = _number(environ, "SLURM_STEP_ID") if "SLURM_STEP_ID" in environ else 0
    port = _job_port(job + 97 * step)
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    if not nodes:
        raise ValueError("SLURM_STEP_NUM_TASKS is set without SLURM_STEP_NODELIST; start with srun")
    address = _given_coordinator(environ, default_port=port) or f"{_first_host(nodes)}:{port}"
    local_count = _slurm_local_count(environ, local_index)
    return True, _checked(address, num_processes, index, local_index, local_count, "Slurm")


def _slurm_local_count(environ: Environment, local_index: int) -> int:
    """The number of tasks on this node, from SLURM_STEP_TASKS_PER_NODE, such as 4(x2),3."""
    counts: list[int] = []
    text = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE", "")
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    node = _number(environ, "SLURM_NODEID") if "SLURM_NODEID" in environ else 0
    return counts[node] if node < len(counts) else local_index + 1


def _from_tpu(environ: Environment) -> Found:
    """A slice's hosts as GKE gives them, and several slices (MEGASCALE_*)."""
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if not hosts or "TPU_WORKER_ID" not in environ:
        return False, None
    names = [_host(name) for name in hosts.split(",")]
    slices = _number(environ, "MEGASCALE_NUM_SLICES") if "MEGASCALE_NUM_SLICES" in environ else 1
    index = _number(environ, "TPU_WORKER_ID")
    if slices > 1:
        index += _number(environ, "MEGASCALE_SLICE_ID") * len(names)
        if "MEGASCALE_COORDINATOR_ADDRESS" not in environ:
            raise ValueError(
                f"MEGASCALE_NUM_SLICES={slices} without MEGASCALE_COORDINATOR_ADDRESS; "
                "set it to slice 0's first host"
            )
    first = _host(environ["MEGASCALE_COORDINATOR_ADDRESS"]) if slices > 1 else names[0]
    address = _given_coordinator(environ, default_port=TPU_PORT) or f"{first}:{TPU_PORT}"
    return True, _checked(address, len(names) * slices, index, 0, 1, "TPU slice")


def _from_jobset(environ: Environment) -> Found:
    """A JobSet of Kubernetes; its pods are named SET-JOB-REPLICA-INDEX.SET."""
    if "JOBSET_NAME" not in environ or "JOB_COMPLETION_INDEX" not in environ:
        return False, None
    counts = [name for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_COUNT", "NNODES") if name in environ]
    if not counts:
        raise ValueError(
            f"JOBSET_NAME={environ['JOBSET_NAME']} without a number of processes; set "
            "JAX_NUM_PROCESSES in the pod's env (1 if each pod trains alone)"
        )
    num_processes, index = _number(environ, counts[0]), _number(environ, "JOB_COMPLETION_INDEX")
    if "JOB_INDEX" in environ and "PROCESSES_IN_JOB" in environ:
        index += _number(environ, "JOB_INDEX") * _number(environ, "PROCESSES_IN_JOB")
    address = _given_coordinator(environ, default_port=KUBERNETES_PORT)
    if address is None and num_processes > 1:
        if "REPLICATED_JOB_NAME" not in environ:
            raise ValueError("JOBSET_NAME is set without REPLICATED_JOB_NAME; set both in the pod's env")
        job_set = environ["JOBSET_NAME"]
        port = environ.get("JAX_COORDINATOR_PORT", KUBERNETES_PORT)
        address = f"{job_set}-{environ['REPLICATED_JOB_NAME']}-0-0.{job_set}:{port}"
    return True, _checked(address or "", num_processes, index, 0, 1, "JobSet")


def _given_coordinator(environ: Environment, *, default_port: int | None) -> str | None:
    """The address that the environment names, with its port; it overrides what a launcher would imply."""
    address = environ.get("JAX_COORDINATOR_ADDRESS") or environ.get("JAX_COORDINATOR_IP")
    if not address or re.search(r"[^:]:\d+$|\]:\d+$", address):
        return address or None
    port = environ.get("JAX_COORDINATOR_PORT", default_port)
    if port is None:
        raise ValueError(f"JAX_COORDINATOR_ADDRESS={address} has no port; write HOST:PORT")
    return f"{address}:{port}"


def _started_by_hand(address: str, num_processes: int, index: int, source: str) -> Launch | None:
    """Nothing says which machines the processes are on, unless the coordinator is this machine."""
    together = _host(address) in _THIS_MACHINE
    local = (index, num_processes) if together else (0, 1)
    return _checked(address, num_processes, index, *local, source)


def _checked(
    address: str, num_processes: int, index: int, local_index: int, local_count: int, source: str
) -> Launch | None:
    if num_processes < 1:
        raise ValueError(f"{source}: {num_processes} processes; there must be at least 1")
    if not 0 <= index < num_processes:
        raise ValueError(
            f"{source}: process index {index} of {num_processes} processes; it must be from 0 to "
            f"{num_processes - 1}: number them from 0"
        )
    if num_processes == 1:
        return None
    if not _is_address(address):
        raise ValueError(f"{source}: coordinator {address!r} must be HOST:PORT, such as node1:8476")
    return Launch(address, num_processes, index, local_index, local_count, source)


def _is_address(text: str) -> bool:
    return bool(_ADDRESS.fullmatch(text)) and split_address(text)[1] <= 65535


def bind_address(environ: Environment, launch: Launch) -> tuple[str, int]:
    """The host ("" for all) and the port at which process 0 listens.

    Raises:
      ValueError: JAX_COORDINATOR_BIND_ADDRESS is not an address.
    """
    address = environ.get("JAX_COORDINATOR_BIND_ADDRESS")
    if not address:
        return "", split_address(launch.coordinator)[1]
    if not _is_address(address):
        raise ValueError(
            f"JAX_COORDINATOR_BIND_ADDRESS={address} must be HOST:PORT, such as 0.0.0.0:8476; correct it, or "
            "unset it"
        )
    host, port = split_address(address)
    return "" if host in ("::", "0.0.0.0") else host, port


def split_address(address: str) -> tuple[str, int]:
    """Host, without the brackets of IPv6, and port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _host(address: str) -> str:
    match = re.match(r"\[([^\]]+)\]|([^:]+)(?::\d+)?$", address.strip())
    return (match[1] or match[2]) if match else address.strip()


def _first_host(nodes: str) -> str:
    """The first host of a Slurm list: node003x1 in node[003-007,9]x[1-2],other."""
    match = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    assert match is not None
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", match[0])


def _job_port(job: int) -> int:
    """A port that the processes of one job agree on and that two jobs on one machine seldom share."""
    first, number = _JOB_PORTS
    return first + job % number


def _number(environ: Environment, name: str) -> int:
    text = environ.get(name)
    if text is None:
        raise ValueError(f"{name} is not set though its launcher's other variables are; set it, or use flags")
    if not re.fullmatch(r"\d+", text.strip()):
        raise ValueError(f"{name}={text!r} must be a whole number from 0")
    return int(text)


def _listed(given: Mapping[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in given.items() if value is not None)
