"""Where prepared data and compiled programs are kept between runs."""

import os
import sys
from pathlib import Path

from flaxmill.data.files.local_paths import local_path
from flaxmill.sharding.processes.processor import count_threads, processor_kind
from flaxmill.train.plain_paths import is_taken_for_bucket

_PROGRAMS = "JAX_COMPILATION_CACHE_DIR"


def cache_directory() -> Path:
    """FLAXMILL_CACHE, or `flaxmill` in the user's cache directory; made if absent.

    Raises:
      ValueError: it cannot be made or written.
    """
    named = os.environ.get("FLAXMILL_CACHE")
    directory = local_path(named, "FLAXMILL_CACHE").absolute() if named else _user_cache() / "flaxmill"
    if is_taken_for_bucket(directory):
        raise ValueError(
            f"the cache {directory} is taken for a bucket by the libraries that read it; set FLAXMILL_CACHE "
            "to a link to it elsewhere"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        writable = os.access(directory, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        raise ValueError(
            f"the cache {directory} cannot be written; set FLAXMILL_CACHE to a directory that can"
        )
    return directory


def enable_compilation_cache(cache: Path) -> Path:
    """Keep every compiled program below `cache`; returns the directory. Call it before compiling.

    JAX_COMPILATION_CACHE_DIR in the environment has precedence: it may hold what `flaxmill plan` compiled.
    """
    directory = programs_directory(cache)
    is_named = bool(os.environ.get(_PROGRAMS))
    return keep_programs(directory if is_named else directory / _made_for())


def programs_directory(cache: Path) -> Path:
    """Where compiled programs are, in `cache` those of each kind of processor in a folder of its own."""
    named = os.environ.get(_PROGRAMS)
    return Path(named).absolute() if named else cache / "compiled"


def keep_programs(directory: Path) -> Path:
    """Keep every compiled program in this directory, and read programs from it."""
    import jax  # the cache of prepared data does not need it

    jax.config.update("jax_compilation_cache_dir", str(directory))
    # By default only what took a second to compile is kept, but a start compiles many small programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory


def _user_cache() -> Path:
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches"
    named = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification says to ignore relative paths.
    return Path(named) if os.path.isabs(named) else _home() / ".cache"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # for example in a container that does not list its user
        raise ValueError("this user has no home directory for a cache; set FLAXMILL_CACHE") from None


def _made_for() -> str:
    """A name for all that a program depends on and JAX's key leaves out."""
    import jax

    # Programs for accelerators are the same whatever the number of cores beside them.
    threads = f"-{count_threads(os.environ)}" if jax.default_backend() == "cpu" else ""
    return processor_kind() + threads
