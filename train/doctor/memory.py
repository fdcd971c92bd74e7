"""How much of the machine's memory a run may have, and what GPUs exchange through."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from flaxmill.sharding.hardware.chips import GIB
from flaxmill.sharding.hardware.host_memory import host_memory_bytes
from flaxmill.train.doctor.findings import Finding

CHECK = "memory"

LEAST_BYTES = GIB // 2
"""What `flaxmill train gpt_tiny` takes."""
SMALL_SHM = 1 << 26
"""Bytes that Docker gives /dev/shm unless it is told otherwise."""


def check_memory(root: Path = Path("/")) -> Iterator[Finding]:
    """Look at the machine's memory and at the limits of the container.

    Args:
      root: where /proc and /sys are.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed, free = host_memory_bytes(root), _available(root)
    said = f"{_gib(allowed)} GiB"
    if allowed < machine:
        said += f", to which the container limits it, of the machine's {_gib(machine)}"
    if free is not None:
        said += f"; {_gib(free)} GiB of the machine's are free"
    if min(allowed, free or allowed) < LEAST_BYTES:
        what = f"{said}: less than the {_gib(LEAST_BYTES)} GiB that the smallest example takes"
        yield Finding(CHECK, "wrong", what, "end other programs, or raise the limit")
    else:
        yield Finding(CHECK, "ok", said)


def check_shared_memory(num_gpus: int, place: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Whether several GPUs can exchange through the machine's memory what they cannot directly."""
    if num_gpus < 2 or not place.is_dir():
        return
    said = os.statvfs(place)
    if (size := said.f_blocks * said.f_frsize) <= SMALL_SHM:
        what = f"{place} has {size >> 20} MiB, and NCCL may need more for {num_gpus} GPUs"
        yield Finding(CHECK, "remark", what, "start the container with --shm-size=1g or --ipc=host")


def _available(root: Path) -> int | None:
    try:
        text = (root / "proc/meminfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) << 10 if found else None


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f}"
