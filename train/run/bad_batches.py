"""Keeps the batches of steps with a bad loss or gradient, for a person to look at."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flaxmill.data.batches import Batches
from flaxmill.data.show import describe_batch

BAD_BATCHES = "bad_batches"
ROWS_SHOWN = 64
"""Rows of a batch that its text shows; its .npz has all."""


def write_bad_batches(directory: Path, batches: Batches, numbers: list[int]) -> str:
    """Write batch-N.npz (the arrays, without pickle) and batch-N.txt (their text) for each number.

    It never raises: whatever calls it has something worse to report.

    Args:
      directory: the run's directory.
      numbers: numbers of batches; after a rollback they are ahead of the steps.

    Returns:
      The path of RUN/bad_batches; what could not be written follows in brackets.
    """
    place = directory / BAD_BATCHES
    failed: list[int] = []
    reason = ""
    for number in numbers:
        try:
            place.mkdir(exist_ok=True)
            _write(place / f"batch-{number}", batches, number)
        except Exception as error:  # a full disk, or data that can no longer be read
            failed.append(number)
            reason = " ".join(str(error).split())
    if not failed:
        return str(place)
    return f"{place} (not {', '.join(map(str, failed))}, which could not be written: {reason})"


def _write(stem: Path, batches: Batches, number: int) -> None:
    batch = batches.batch(number)
    text = describe_batch(batch, batches.tokenizer, rows=ROWS_SHOWN)
    arrays: dict[str, Any] = dict(batch)
    _write_whole(stem.with_suffix(".npz"), lambda file: np.savez(file, **arrays))
    _write_whole(stem.with_suffix(".txt"), lambda file: file.write(f"batch {number}: {text}\n".encode()))


def _write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
