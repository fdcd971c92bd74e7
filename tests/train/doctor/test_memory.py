"""Memory: limits of a container, and too little of it."""

import os
from types import SimpleNamespace

import pytest

from flaxmill.sharding.hardware.chips import GIB
from flaxmill.train.doctor.memory import check_memory, check_shared_memory


@pytest.fixture
def root(tmp_path, monkeypatch):
    """(limit, free) -> a machine of 64 GiB, of which `free` are free, with a container's limit."""
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * GIB // 4096}
    monkeypatch.setattr(os, "sysconf", sizes.get)

    def make(limit, free):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text("0::/\n")
        (tmp_path / "sys/fs/cgroup/memory.max").write_text(f"{limit or 'max'}\n")
        (tmp_path / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:  {free >> 10} kB\n")
        return tmp_path

    return make


def test_memory_is_described(root):
    (finding,) = check_memory(root(None, 60 * GIB))
    assert finding == ("memory", "ok", "64.0 GiB; 60.0 GiB of the machine's are free", None)


def test_a_containers_limit_is_named(root):
    (finding,) = check_memory(root(8 * GIB, 60 * GIB))
    assert finding.state == "ok"
    assert finding.what.startswith(
        "8.0 GiB, to which the container limits it, of the machine's 64.0; 60.0 GiB"
    )


@pytest.mark.parametrize(("limit", "free"), [(GIB // 4, 60 * GIB), (None, GIB // 4)])
def test_less_than_the_smallest_example_takes_is_wrong(root, limit, free):
    (finding,) = check_memory(root(limit, free))
    assert finding.state == "wrong"
    assert finding.what.endswith("less than the 0.5 GiB that the smallest example takes")
    assert finding.fix == "end other programs, or raise the limit"


@pytest.mark.parametrize(
    ("num_gpus", "num_bytes", "num_remarks"), [(8, 1 << 26, 1), (1, 1 << 26, 0), (8, 1 << 30, 0)]
)
def test_a_small_shared_memory_of_several_gpus_is_a_remark(
    monkeypatch, tmp_path, num_gpus, num_bytes, num_remarks
):
    said = SimpleNamespace(f_blocks=num_bytes // 4096, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: said)
    found = list(check_shared_memory(num_gpus, tmp_path))
    assert [one.state for one in found] == ["remark"] * num_remarks
    assert all("has 64 MiB, and NCCL may need more for 8 GPUs" in one.what for one in found)
