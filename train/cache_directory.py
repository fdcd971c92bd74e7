"""Where prepared data and compiled programs are kept between runs."""

import os
import sys
from pathlib import Path


def cache_directory() -> Path:
    """FLAXMILL_CACHE, or `flaxmill` in the user's cache directory; made if absent.

    Raises:
      ValueError: it cannot be made or written.
    """
    named = os.environ.get("FLAXMILL_CACHE")
    directory = Path(named).expanduser().absolute() if named else _user_cache() / "flaxmill"
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


def _user_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification has relative paths ignored.
    return Path(named) if os.path.isabs(named) else Path.home() / ".cache"
