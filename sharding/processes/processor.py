"""What a program for the CPU is made for: a kind of processor, and a number of threads.

XLA divides the work of a program among threads when it compiles it. Divided otherwise, the same numbers are
rounded otherwise: processes that hold copies of the same weights must run the same program.
"""

import hashlib
import os
import platform
from collections.abc import MutableMapping
from pathlib import Path

from flaxmill.sharding.processes.launch import Environment

_VARIABLES = ("PJRT_NPROC", "NPROC")  # what XLA takes for the number of threads, before it counts cores
_WAITS = 6
"""Threads for each device that waits for others. With one for each, both of two processes ended so in ten
small steps on meshes of three axes; with two, three or four none of ten processes did in 180 such runs. A
thread keeps what it computes with: GPT-2 on eight devices takes 5% more memory with 6 each than with one, and
11% with 16."""
_KINDS = (
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "flags",
    "cpu implementer",
    "cpu part",
    "features",
)


def processor_kind() -> str:
    """A short name, the same wherever a program for this processor can run.

    JAX's key of a program leaves out the features of the host's processor, and a program compiled for other
    features warns or fails when it is loaded: machines that share a home directory must not share programs.
    """
    said = [platform.processor()]
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        first = text.strip().partition("\n\n")[0]
        lines = [[part.strip() for part in line.partition(":")] for line in first.splitlines()]
        said = [value for name, _, value in lines if name.lower() in _KINDS] or said
    except OSError:
        pass  # not Linux: the processor's name has to do
    digest = hashlib.sha256("\n".join(said).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:8]}"


def count_threads(environ: Environment) -> int:
    """Threads among which XLA divides a program: cores that this process may use, or fewer if it is told."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux: nothing binds a process to cores there
        cores = os.cpu_count() or 1
    told = next((environ[name] for name in _VARIABLES if environ.get(name, "").isdecimal()), None)
    devices = environ.get("JAX_NUM_CPU_DEVICES", "")  # each takes a thread, whatever is told
    least = int(devices) if devices.isdecimal() else 1
    return cores if told is None else min(cores, max(int(told), least, 1))


def spare_threads(environ: MutableMapping[str, str], num_processes: int = 1) -> None:
    """Give XLA threads in which its CPU devices may wait for each other; call it before JAX counts devices.

    A device waits for the others in each sum or exchange that it can begin, and blocks a thread in each. XLA
    has as many threads as cores or devices: once all of them wait, each for another, the process ends after
    40 seconds. Programs are divided among the cores as before. One device alone, and what a user told XLA,
    stay as they are.
    """
    devices = environ.get("JAX_NUM_CPU_DEVICES", "")
    num_devices = int(devices) if devices.isdecimal() else 1
    if num_devices * num_processes > 1 and not any(environ.get(name) for name in _VARIABLES):
        environ[_VARIABLES[0]] = str(_WAITS * num_devices)


def limit_threads(environ: MutableMapping[str, str], number: int) -> None:
    """Have XLA divide programs among so many threads at most; call it before JAX counts devices."""
    environ.update(dict.fromkeys(_VARIABLES, str(number)))
