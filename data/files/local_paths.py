"""Paths as people type them: on this machine, with any character that a file's name may have."""

import glob
import os
import re
from pathlib import Path

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def local_path(text: str, name: str) -> Path:
    """The path, `~` expanded; `name` is the option that it was given to.

    Raises:
      ValueError: it is remote, names no user's home, or is not text that all libraries can pass on.
    """
    refuse_remote(text, name)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}={text!r} holds bytes that are not UTF-8; rename that directory") from None
    if "\0" in text:
        raise ValueError(f"{name}={text!r} holds a zero byte; give a path without it")
    path = Path(text)
    if not text.startswith("~"):
        # Path drops a leading ./, and whoever reads its text again would take ./~name for a home.
        return path.absolute() if str(path).startswith("~") else path
    try:
        return path.expanduser()
    except RuntimeError:  # ~somebody
        raise ValueError(
            f"{name}={text} names no user's home on this machine; write a path that begins so as ./{text}"
        ) from None


def refuse_remote(text: str, name: str, takes: str = "local files") -> None:
    """Raise ValueError if a URL is given for a path: a directory of that name is not what was meant.

    Args:
      takes: what the option takes.
    """
    found = _SCHEME.match(text)
    if found is None:
        return
    if found[0].lower() == "file://":
        raise ValueError(f"{name}={text} is a URL; give the path alone, {text[len(found[0]) :] or '/'}")
    raise ValueError(
        f"{name}={text} is remote, and flaxmill reads and writes {takes} alone; mount or copy it, "
        "and give the local path"
    )


def match_files(pattern: str) -> list[str]:
    """The paths that a path or glob names, in order.

    The part of it that exists is taken literally, brackets and all: a folder's name is not a pattern.
    """
    path = Path(pattern)
    existing = next((part for part in (path, *path.parents) if os.path.exists(part)), None)
    if existing == path:
        return [pattern]
    if existing is None:  # the working directory is gone
        return []
    rest = str(path.relative_to(existing))
    return [str(existing / found) for found in sorted(glob.glob(rest, root_dir=existing, recursive=True))]
