"""What every command settles before it compiles anything."""

from pathlib import Path

from flaxmill.model.random_bits import unroll_random_bits
from flaxmill.train.caches import enable_compilation_cache


def set_up_compilation(cache: Path) -> None:
    """Keep every compiled program below `cache`, and draw random bits by a program that compiles fast."""
    enable_compilation_cache(cache)
    unroll_random_bits()
