"""How much memory this machine lets a program have: what it is made of, or what its container may use."""

import os
from collections.abc import Iterator
from pathlib import Path


def host_memory_bytes(root: Path = Path("/")) -> int:
    """Bytes of the machine, or the smallest limit of the control groups that this process is in.

    Args:
      root: where /proc and /sys are.
    """
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([whole, *_limits(root)])


def _limits(root: Path) -> Iterator[int]:
    """What cgroups say (docs.kernel.org/admin-guide/cgroup-v2.html, and cgroup-v1/memory.html)."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, inner = line.split(":", 2)
        if not controllers:
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = Path(inner.lstrip("/"))
        # A container may see its own group as the mount, whatever its path is outside.
        for part in (group, *group.parents):
            text = _read(mount / part / name).strip()
            if text.isdigit():  # "max": no limit
                yield int(text)


def _read(path: Path) -> str:
    """The text of a file; "" if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
