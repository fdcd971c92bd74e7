"""A container's limit counts where it is less than the machine's memory."""

from pathlib import Path

import pytest

from flaxmill.sharding.hardware.host_memory import host_memory_bytes

MIB = 2**20
V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"
IN_V1 = "5:cpu,cpuacct:/other\n4:memory:/docker/abc\n0::/\n"


def machine(root: Path, groups: str, limits: dict[str, str]) -> Path:
    """A machine whose /proc and /sys say this."""
    for name, text in {"proc/self/cgroup": groups, **limits}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "limits"),
    [
        ("0::/\n", {f"{V2}/memory.max": f"{MIB}\n"}),
        ("0::/pod/it\n", {f"{V2}/pod/memory.max": f"{MIB}\n", f"{V2}/pod/it/memory.max": "max\n"}),
        ("0::/not/seen/from/inside\n", {f"{V2}/memory.max": f"{MIB}\n"}),
        (IN_V1, {f"{V1}/docker/abc/memory.limit_in_bytes": f"{MIB}\n"}),
        (IN_V1, {f"{V1}/memory.limit_in_bytes": f"{MIB}\n"}),
    ],
    ids=["v2", "a parent's", "v2 from inside", "v1", "v1 from inside"],
)
def test_the_smallest_limit_counts(groups, limits, tmp_path):
    assert host_memory_bytes(machine(tmp_path, groups, limits)) == MIB


@pytest.mark.parametrize(
    ("groups", "limits"),
    [
        ("", {}),
        ("0::/\n", {f"{V2}/memory.max": "max\n"}),
        (IN_V1, {f"{V1}/memory.limit_in_bytes": "9223372036854771712\n"}),
    ],
    ids=["no groups", "v2", "v1"],
)
def test_without_a_limit_it_is_the_machines_memory(groups, limits, tmp_path):
    whole = host_memory_bytes(tmp_path / "nothing")
    assert whole > MIB
    assert host_memory_bytes(machine(tmp_path, groups, limits)) == whole
