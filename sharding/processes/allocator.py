"""How a process keeps the memory that its programs work in, and no other.

XLA asks for the temporaries of a program at every step and gives them back after it. For arrays as large as
theirs, glibc asks the system each time, which clears every page anew: a fifth of a training step on a CPU.
"""

import ctypes
import sys
from collections.abc import Mapping

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""Names of settings in glibc's malloc.h."""
_SETTINGS = ((_TRIM_THRESHOLD, -1), (_MMAP_MAX, 0), (_ARENA_MAX, 1))
"""Memory is never given back, large arrays come from the heap too, and all threads share it: the heaps of
other threads are too small for them."""


def keep_freed_memory(environ: Mapping[str, str]) -> None:
    """Have the C library keep freed memory for the next program; call it before JAX is imported.

    It does nothing where the user has told the C library how to allocate, or where it is not glibc.
    """
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in environ)
    if told or "jax" in sys.modules or not sys.platform.startswith("linux"):
        return
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
        for name, value in _SETTINGS:
            set_option(name, value)


def give_back_freed_memory() -> None:
    """Give the pages of freed memory back to the system, once what needed much of it has ended.

    A program's temporaries lie in one piece, which does not fit into what its compilation has left.
    """
    if not sys.platform.startswith("linux"):
        return
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
