"""Many processes as one job: their start, and what they agree on before and after the steps."""

import itertools
import json
import os
import re
import threading
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax._src import distributed  # the key-value store that all processes share has no public name

from flaxmill.sharding.launch import Environment, Launch, find_launch, split_address
from flaxmill.sharding.rendezvous import Member, meet, open_relay

__all__ = [
    "Coordination",
    "Launch",
    "agree_on",
    "any_process",
    "coordination",
    "coordinator_lost",
    "find_launch",
    "is_main",
    "start_processes",
]

_WAIT_MILLISECONDS = (
    7 * 24 * 3600 * 1000
)  # who waits for a process that died is ended by the watch over peers
_CONNECT_SECONDS, _SHUTDOWN_SECONDS = 60, 10

coordinator_lost = threading.Event()
"""Set when process 0, to which this process is connected, is gone."""

_calls = itertools.count()
_members: list[Member] = []


class Coordination(NamedTuple):
    """JAX's client of the key-value store that all processes share, who they are, and which this one is."""

    client: Any
    process_index: int
    members: list[Member]


def start_processes(launch: Launch, *, heartbeat_seconds: int, start_seconds: float = 300) -> None:
    """Connect this process with the others, before any device is touched.

    Args:
      heartbeat_seconds: after which a silent process counts as dead. JAX's own count, at whose end it aborts
        the process, is set to several times that.
      start_seconds: how long the processes wait for each other.

    Raises:
      ConnectionError: not all came; the message is one line.
      ValueError: the node's GPUs do not divide over its processes.
    """
    local_device_ids = share_of_gpus(launch, os.environ, _count_gpus())
    _members[:] = meet(launch, start_seconds)
    port = split_address(launch.coordinator)[1]
    port_here = open_relay(launch.coordinator, coordinator_lost) if launch.process_index else port
    # gRPC would take even a connection within the machine through a proxy of the environment.
    os.environ.setdefault("no_grpc_proxy", "127.0.0.1")
    jax.config.update("jax_check_proxy_envs", False)
    # It replaces the handler of SIGTERM; a job of ours agrees in its steps when to stop.
    jax.config.update("jax_enable_preemption_service", False)
    # All are there, so this takes a moment; if one dies in it, JAX would wait and then abort the process.
    timer = threading.Timer(_CONNECT_SECONDS, _give_up, args=(launch,))
    timer.daemon = True
    timer.start()
    jax.distributed.initialize(
        f"127.0.0.1:{port_here}",
        launch.num_processes,
        launch.process_index,
        local_device_ids=local_device_ids,
        cluster_detection_method="deactivate",
        coordinator_bind_address=os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", f"[::]:{port}"),
        heartbeat_timeout_seconds=max(100, 4 * heartbeat_seconds),
        initialization_timeout=2 * _CONNECT_SECONDS,
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )
    timer.cancel()


def is_main() -> bool:
    """Whether this is process 0, which alone writes what is written once; touches no device."""
    return distributed.global_state.process_id == 0


def coordination() -> Coordination | None:
    """What the processes say to each other through; None for a process alone."""
    state = distributed.global_state
    return state.client and Coordination(state.client, state.process_id, _members)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process. All must call it; each waits for all."""
    joined = coordination()
    if joined is None:
        return flag
    key = f"flaxmill/any/{next(_calls)}"
    joined.client.key_value_set(f"{key}/{joined.process_index}", json.dumps(bool(flag)))
    joined.client.wait_at_barrier(key, _WAIT_MILLISECONDS)
    return any(json.loads(value) for _, value in joined.client.key_value_dir_get(f"{key}/"))


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


def share_of_gpus(launch: Launch, environ: Environment, num_gpus: int) -> list[int] | None:
    """Which of the node's GPUs this process takes: all (None), or an even share with the others there.

    Args:
      num_gpus: of the node. Fewer in CUDA_VISIBLE_DEVICES, such that all processes could have as many,
        are this process's own already.

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


def _count_gpus() -> int:
    """NVIDIA's devices of this machine, without starting CUDA."""
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        return 0
    return sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in Path("/dev").glob("nvidia*"))
