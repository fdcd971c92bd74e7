"""Compiled programs kept on disk, so that a second start does not compile again."""

import hashlib
import platform
from pathlib import Path

import jax


def enable_compilation_cache(cache: Path) -> Path:
    """Keep every compiled program below `cache`; returns the directory. Call it before compiling."""
    directory = cache / "compiled" / _processor()
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # By default only what took a second to compile is kept, but a start compiles many small programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory


def _processor() -> str:
    """A name for the kind of processor.

    JAX's key leaves out the features of the host's processor, and a program compiled for other features
    warns or fails when it is loaded: machines that share a home directory must not share programs.
    """
    features = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        features = next((line for line in lines if line.lower().startswith(("flags", "features"))), features)
    except OSError:
        pass  # not Linux: the processor's name has to do
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
