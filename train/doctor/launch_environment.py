"""What `flaxmill train` would start here: one process, or one of many, and the variables that change it."""

import os
import socket
from collections.abc import Iterator, Mapping

from flaxmill.sharding.processes.launch import Environment, Launch, bind_address, find_launch, split_address
from flaxmill.sharding.processes.processor import count_threads
from flaxmill.train.doctor.findings import Finding, with_fix
from flaxmill.train.jax_environment import has_compilers_alone

CHECK = "launch"

_OF_JAX = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_UNREAD = {"torchrun": ("WORLD_SIZE", "RANK"), "MPICH": ("PMI_SIZE", "PMI_RANK")}
"""Launchers whose variables flaxmill does not read: the number of processes, and which this one is."""
_NAMED = (
    "JAX_PLATFORMS",
    "JAX_NUM_CPU_DEVICES",
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "LIBTPU_INIT_ARGS",
    "CUDA_VISIBLE_DEVICES",
    "FLAXMILL_CACHE",
)
"""Variables that decide where or how JAX computes."""
_SLOW = {
    "JAX_DISABLE_JIT": "every operation runs by itself",
    "JAX_DEBUG_NANS": "every operation waits for the device",
    "JAX_ENABLE_X64": "JAX computes in float64 where nothing names a dtype",
    "XLA_PYTHON_CLIENT_ALLOCATOR": "memory is not kept between operations",
}
_FALSE = ("", "0", "false", "no", "off", "default", "bfc")


def check_launch(environ: Environment) -> Iterator[Finding]:
    """Read the variables as `flaxmill train` does, and try the address that they name."""
    try:
        launch = find_launch(environ)
        if launch is not None:
            bind_address(environ, launch)
    except ValueError as error:
        yield with_fix(CHECK, "wrong", str(error))
    else:
        yield Finding(CHECK, "ok", describe_launch(launch))
        yield from _contradictions(environ, launch)
        yield from _unread(environ, launch)
        if launch is not None:
            yield from _unreachable(environ, launch)
    yield from _variables(environ)
    yield from _few_threads(environ)


def describe_launch(launch: Launch | None) -> str:
    """`process 3 of 8, counted from 0, coordinator node1:8476 (Slurm)`."""
    if launch is None:
        return "1 process"
    return (
        f"process {launch.process_index} of {launch.num_processes}, counted from 0, coordinator "
        f"{launch.coordinator} ({launch.source}); {launch.local_count} on this machine"
    )


def _contradictions(environ: Environment, launch: Launch | None) -> Iterator[Finding]:
    """JAX's own variables win over a launcher's: set for a whole job, they make all its processes one."""
    said = {name: environ[name] for name in _OF_JAX if name in environ}
    if _OF_JAX[1] not in said:
        return
    other = _find_quietly({name: value for name, value in environ.items() if name not in _OF_JAX})
    mine = (1, 0) if launch is None else (launch.num_processes, launch.process_index)
    if other is None or mine == (other.num_processes, other.process_index):
        return
    values = " ".join(f"{name}={value}" for name, value in said.items())
    what = f"{values}, but {other.source} says process {other.process_index} of {other.num_processes}"
    yield Finding(CHECK, "wrong", what, f"unset {' and '.join(said)}")


def _find_quietly(environ: Mapping[str, str]) -> Launch | None:
    try:
        return find_launch(environ)
    except ValueError:
        return None


def _unread(environ: Environment, launch: Launch | None) -> Iterator[Finding]:
    """Many processes were started, or could be, and each would train by itself."""
    if launch is not None or _OF_JAX[1] in environ:
        return
    for launcher, (size, rank) in _UNREAD.items():
        number = environ.get(size, "")
        if rank in environ and number.isdecimal() and int(number) > 1:
            what = (
                f"{size}={number} {rank}={environ[rank]} ({launcher}) is not read: {number} processes would "
            )
            what += "each train alone"
            fix = (
                f"set JAX_NUM_PROCESSES={number}, JAX_PROCESS_ID={environ[rank]} and JAX_COORDINATOR_ADDRESS"
            )
            yield Finding(CHECK, "wrong", what, fix)
    tasks = environ.get("SLURM_NTASKS", "")
    if "SLURM_STEP_NUM_TASKS" not in environ and tasks.isdecimal() and int(tasks) > 1:
        what = (
            f"a Slurm allocation of {tasks} tasks, of which this is none: `flaxmill train` would be 1 process"
        )
        yield Finding(CHECK, "remark", what, "start it with srun, as in srun flaxmill train")


def _unreachable(environ: Environment, launch: Launch) -> Iterator[Finding]:
    host, port = split_address(launch.coordinator)
    if launch.process_index == 0:
        address = bind_address(environ, launch)
        try:
            with socket.create_server(address, reuse_port=False):
                return
        except OSError as error:
            what = f"process 0 cannot listen on port {address[1]} ({error.strerror or error})"
            fix = "end what listens there, or name another port in JAX_COORDINATOR_ADDRESS"
            yield Finding(CHECK, "wrong", what, fix)
        return
    try:
        socket.getaddrinfo(host, port)
    except OSError as error:
        what = f"the coordinator's host {host} is not known here ({error.strerror or error})"
        fix = "name an address that all machines know in JAX_COORDINATOR_ADDRESS"
        yield Finding(CHECK, "wrong", what, fix)


def _variables(environ: Environment) -> Iterator[Finding]:
    said = {name: environ[name] for name in _NAMED if environ.get(name)}
    if said.get("JAX_PLATFORMS") == "cpu" and has_compilers_alone():
        del said["JAX_PLATFORMS"]  # flaxmill itself sets it here
    if said:
        yield Finding(CHECK, "ok", "set: " + " ".join(f"{name}={value}" for name, value in said.items()))
    for name, effect in _SLOW.items():
        if (value := environ.get(name, "")).lower() not in _FALSE:
            yield Finding(CHECK, "remark", f"{name}={value}: {effect}", f"unset {name} to train")


def _few_threads(environ: Environment) -> Iterator[Finding]:
    cores, threads = os.cpu_count() or 1, count_threads(environ)
    if threads < cores and "JAX_NUM_CPU_DEVICES" not in environ:
        told = [f"{name}={environ[name]}" for name in ("PJRT_NPROC", "NPROC") if environ.get(name)]
        why, fix = (" ".join(told), "unset it") if told else ("this process is bound to them", None)
        yield Finding(CHECK, "remark", f"the CPU computes with {threads} of {cores} cores: {why}", fix)
