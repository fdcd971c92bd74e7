"""Writes a file so that it appears whole or not at all."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a partial file beside `path`, and give it that name once it is on the disk.

    The partial file has a name of its own, so that two writers, here or on two machines, never share one.
    """
    partial = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # else the name may reach the disk before the content
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 text."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
