"""Freed memory is kept for the next program, and given back when asked."""

import os
import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import resource
from flaxmill.sharding.processes.allocator import keep_freed_memory
import os
keep_freed_memory(os.environ)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    b"x" * 2**26
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
_GIVING = """
from flaxmill.sharding.processes.allocator import give_back_freed_memory, keep_freed_memory
keep_freed_memory({})

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

before = resident()
parts = [b"x" * 2**16 for _ in range(2**10)]
last = b"x" * 2**16  # keeps the top of the heap where it is
del parts
kept = resident()
give_back_freed_memory()
print(kept - before, resident() - before)
"""
_MANY = 4 * 2**26 // 4096
"""Pages that half of the arrays take, where each of them gets new ones."""


def count_faults(**told: str) -> int:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environ.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environ | told, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")


@needs_glibc
def test_large_arrays_get_the_pages_of_those_before_unless_the_user_told_otherwise():
    assert count_faults() < _MANY < count_faults(MALLOC_TOP_PAD_="131072")
    assert count_faults(GLIBC_TUNABLES="glibc.malloc.mmap_threshold=131072") > _MANY


@needs_glibc
def test_freed_memory_is_given_back_when_asked():
    done = subprocess.run([sys.executable, "-c", _GIVING], capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 2**26 // 4096 > 10 * left
