"""Many processes as one job: their start, and what they agree on before and after the steps."""

import asyncio
import itertools
import json
import os
import re
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
from jax._src import distributed  # the key-value store that all processes share has no public name

from flaxmill.sharding.processes.door import Reader, Writer
from flaxmill.sharding.processes.greetings import TOKEN, GreetedJob, Member
from flaxmill.sharding.processes.launch import Environment, Launch, find_launch, split_address
from flaxmill.sharding.processes.processor import count_threads, limit_threads, spare_threads
from flaxmill.sharding.processes.relay import Connect, Relay
from flaxmill.sharding.processes.rendezvous import Guest, Host, MeetingStoppedError

__all__ = [
    "Coordination",
    "Launch",
    "MeetingStoppedError",
    "agree_on",
    "any_process",
    "coordination",
    "coordinator_lost",
    "disconnect",
    "find_launch",
    "is_main",
    "start_processes",
    "take_equal_threads",
    "texts_of_all",
]

# The watch over peers ends a process that waits for one that died.
_WAIT_MILLISECONDS = 7 * 24 * 3600 * 1000
_CONNECT_SECONDS, _SHUTDOWN_SECONDS = 60, 10

coordinator_lost = threading.Event()
"""Set when process 0, to which this process is connected, is gone."""

_calls = itertools.count()
_members: list[Member] = []
_ports: list[Relay | Host] = []


class Stoppable(Protocol):
    """Something that ends this process when it is told to."""

    @property
    def leave(self) -> Callable[[int, str], object] | None:
        """Takes the exit code and the reason. None: the end waits until something can pass them on."""
        ...

    @leave.setter
    def leave(self, leave: Callable[[int, str], object] | None) -> None: ...


class Coordination(NamedTuple):
    """JAX's client of the key-value store that all processes share, who they are, and which this one is."""

    client: Any
    process_index: int
    members: list[Member]


def start_processes(
    launch: Launch,
    *,
    heartbeat_seconds: int,
    start_seconds: float = 300,
    job: str = "a job",
    say: Callable[[str], None] = print,
    stop: Stoppable | None = None,
) -> None:
    """Connect this process with the others, before any device is touched.

    Args:
      heartbeat_seconds: a process that is silent for so long counts as dead. JAX's own limit, after which it
        aborts the process, is set to several times that.
      start_seconds: how long the processes wait for each other.
      job: the name that all processes of this job, and no others, give it.
      say: is told of strangers that come to the port of process 0.
      stop: ends this process when told to, until all have met; then it cannot until its `leave` is set again.

    Raises:
      MeetingStoppedError: one of the processes was told to stop.
      ConnectionError: not all came; the message is one line.
      ValueError: the node's GPUs do not divide over its processes.
    """
    local_device_ids = share_of_gpus(launch, os.environ, count_gpus())
    greetings = GreetedJob(job, launch.num_processes, os.environ.get(TOKEN, ""))
    own = Member(socket.gethostname(), os.getpid())
    host = None if launch.process_index else Host(launch, greetings, own, say)
    meeting = host or Guest(launch, greetings, own)
    if stop is not None:
        stop.leave = meeting.leave
    _members[:] = meeting.meet(start_seconds)
    if stop is not None:
        stop.leave = None
    with _private_directory() if host else nullcontext("") as directory:
        service = f"{directory}/service"  # JAX's: a UNIX socket, which only this user reaches
        relay = Relay(_way_to_service(launch, greetings, own, service), coordinator_lost)
        _ports[:] = [relay, *([host] if host else [])]
        if host:
            host.serve(service)
        # All are there, so this takes a moment. If one dies in it, JAX would wait and then abort the process.
        timer = threading.Timer(_CONNECT_SECONDS, _give_up, args=(launch,))
        timer.daemon = True
        timer.start()
        _connect_jax(launch, relay.port, service, local_device_ids, heartbeat_seconds)
        timer.cancel()
    relay.settle()


def disconnect() -> None:
    """Leave the others, when all are done."""
    with suppress(RuntimeError):  # all the work is done and saved
        jax.distributed.shutdown()
    for port in _ports:
        port.close()
    _ports.clear()


def _connect_jax(
    launch: Launch, port: int, service: str, local_device_ids: list[int] | None, heartbeat_seconds: int
) -> None:
    # gRPC would take even a connection within the machine through a proxy of the environment.
    os.environ.setdefault("no_grpc_proxy", "127.0.0.1")
    jax.config.update("jax_check_proxy_envs", False)
    # The preemption service replaces the handler of SIGTERM; a job of ours agrees in its steps when to stop.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        f"127.0.0.1:{port}",
        launch.num_processes,
        launch.process_index,
        local_device_ids=local_device_ids,
        cluster_detection_method="deactivate",
        coordinator_bind_address=f"unix:{service}",
        heartbeat_timeout_seconds=max(100, 4 * heartbeat_seconds),
        initialization_timeout=2 * _CONNECT_SECONDS,
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )


def _way_to_service(launch: Launch, job: GreetedJob, own: Member, service: str) -> Connect:
    """How this process reaches JAX's service: directly in process 0, else through the port of process 0."""

    async def connect_here() -> tuple[Reader, Writer]:
        return await asyncio.open_unix_connection(service)

    async def connect() -> tuple[Reader, Writer]:
        reader, writer = await asyncio.open_connection(*split_address(launch.coordinator))
        writer.write(job.greet("relay", launch.process_index, own))
        return reader, writer

    return connect if launch.process_index else connect_here


def _private_directory() -> tempfile.TemporaryDirectory[str]:
    """A directory for a UNIX socket: the socket's path has 107 bytes at most."""
    place = tempfile.gettempdir()
    return tempfile.TemporaryDirectory(prefix="flaxmill-", dir=place if len(place) < 60 else "/tmp")


def is_main() -> bool:
    """Whether this is process 0, which alone writes what is written once; touches no device."""
    return distributed.global_state.process_id == 0


def coordination() -> Coordination | None:
    """The store through which processes talk to each other; None for a process alone."""
    state = distributed.global_state
    return state.client and Coordination(state.client, state.process_id, _members)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process. All must call it; each waits for all."""
    return any(json.loads(text) for text in texts_of_all(json.dumps(bool(flag))))


def texts_of_all(text: str) -> list[str]:
    """The `text` of each process, in order. All must call it; each waits for all."""
    joined = coordination()
    if joined is None:
        return [text]
    key = f"flaxmill/all/{next(_calls)}"
    joined.client.key_value_set(f"{key}/{joined.process_index}", text)
    joined.client.wait_at_barrier(key, _WAIT_MILLISECONDS)
    found = joined.client.key_value_dir_get(f"{key}/")
    return [value for _, value in sorted(found, key=lambda entry: int(entry[0].rpartition("/")[2]))]


def agree_on(text: str) -> str:
    """Process 0's `text`, in every process. All must call it; each waits for process 0."""
    joined = coordination()
    if joined is None:
        return text
    key = f"flaxmill/text/{next(_calls)}"
    if joined.process_index == 0:
        joined.client.key_value_set(key, text)
        return text
    return joined.client.blocking_key_value_get(key, _WAIT_MILLISECONDS)


def take_equal_threads(say: Callable[[str], None]) -> None:
    """Have all processes divide programs among as many threads, so that all copies of a number are equal.

    All must call it, before JAX counts devices. `say` is told, in process 0, of unequal cores.

    Raises:
      ValueError: in all, if a process simulates more devices than another has cores.
    """
    counts = [int(text) for text in texts_of_all(str(count_threads(os.environ)))]
    least, most = min(counts), max(counts)
    if least == most:
        spare_threads(os.environ, len(counts))
        return
    limit_threads(os.environ, least)
    if any_process(count_threads(os.environ) > least):
        raise ValueError(
            f"the processes of this job have {least} to {most} cores, and JAX_NUM_CPU_DEVICES makes some "
            f"compute with more than {least}; give all as many cores, or set it to {least} at most"
        )
    if is_main():
        say(
            f"the processes of this job have {least} to {most} cores: on the CPU each computes with {least}, "
            "since programs for other numbers round otherwise"
        )


def share_of_gpus(launch: Launch, environ: Environment, num_gpus: int) -> list[int] | None:
    """Which of the node's GPUs this process takes: all (None), or an even share with the others there.

    Args:
      num_gpus: GPUs of the node. If CUDA_VISIBLE_DEVICES names so few that all processes could have as many,
        these are this process's own already.

    Raises:
      ValueError: the GPUs do not divide over the processes.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    seen = len([name for name in visible.split(",") if name.strip()]) if visible is not None else num_gpus
    is_own = seen < launch.local_count or seen * launch.local_count <= num_gpus
    if launch.local_count == 1 or is_own or "JAX_LOCAL_DEVICE_IDS" in environ:
        return None
    if seen % launch.local_count:
        raise ValueError(
            f"{seen} GPUs do not divide over the {launch.local_count} processes of this node; start one "
            "process a node or one a GPU, or set JAX_LOCAL_DEVICE_IDS for each"
        )
    share = seen // launch.local_count
    return list(range(launch.local_index * share, (launch.local_index + 1) * share))


def _give_up(launch: Launch) -> None:
    message = (
        f"process {launch.process_index} waited {_CONNECT_SECONDS} s for all {launch.num_processes} to "
        f"connect through {launch.coordinator}: one has died meanwhile; start all processes again"
    )
    os.write(2, f"flaxmill: error: {message}\n".encode())
    os._exit(1)


def count_gpus() -> int:
    """The number of this machine's NVIDIA devices, without starting CUDA."""
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        return 0
    return sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in Path("/dev").glob("nvidia*"))
