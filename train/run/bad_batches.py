"""Keeps the batches of steps with a bad loss or gradient, for a person to look at."""

from pathlib import Path
from typing import Any

import numpy as np

from flaxmill.data.batches import Batches
from flaxmill.data.mixture.mixed_batches import MixedBatches
from flaxmill.data.show import describe_batch
from flaxmill.data.whole_files import write_whole, write_whole_text

BAD_BATCHES = "bad_batches"
ROWS_SHOWN = 64
"""Rows of a batch that its text shows; its .npz has all."""


def write_bad_batches(directory: Path, batches: Batches | MixedBatches, numbers: list[int]) -> str:
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


def _write(stem: Path, batches: Batches | MixedBatches, number: int) -> None:
    batch = batches.batch(number)
    text = describe_batch(batch, batches.tokenizer, rows=ROWS_SHOWN, labels=batches.label_names)
    arrays: dict[str, Any] = dict(batch)
    write_whole(stem.with_suffix(".npz"), lambda partial: np.savez(partial, **arrays))
    write_whole_text(stem.with_suffix(".txt"), f"batch {number}: {text}\n")
