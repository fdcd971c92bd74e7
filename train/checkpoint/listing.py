"""Lists what a run's checkpoint directory holds, and whether each checkpoint is still what was saved."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from flaxmill.train.checkpoint.damage import (
    find_damaged_arrays,
    find_damaged_files,
    load_manifest,
    num_bytes,
)
from flaxmill.train.checkpoint.directory import DAMAGED, DISCARDED, TEMPORARY, find_steps
from flaxmill.train.checkpoint.manifest import DefectError
from flaxmill.train.failures import CheckpointError

CheckpointVerdict = Literal[
    "whole", "damaged", "not read", "unreadable", "set aside", "unfinished", "discarded"
]
BAD: tuple[CheckpointVerdict, ...] = ("damaged", "unreadable")


class Listed(NamedTuple):
    """A directory among the checkpoints.

    `step` is None unless the directory counts as a checkpoint. `metadata` is what was given to the save, {}
    where that cannot be known.
    """

    name: str
    step: int | None
    num_bytes: int
    verdict: CheckpointVerdict
    problems: list[str]
    metadata: dict[str, Any]


def list_checkpoints(directory: Path, *, quick: bool = False) -> Iterator[Listed]:
    """Every checkpoint by step, read whole and digested array by array, and then what was left or set aside.

    Args:
      quick: look at manifests and files alone, reading no array.
    """
    steps = find_steps(directory)
    for step in steps:
        listed = _check(directory / str(step), step, quick)
        if (directory / str(step)).exists():  # else a run that is still training has dropped it
            yield listed
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        verdict = _leftover(path.name)
        if verdict is not None and path.is_dir():
            yield Listed(path.name, None, num_bytes(path), verdict, [], {})


def check_newest(directory: Path) -> Listed | None:
    """The newest checkpoint, by its manifest and files alone; None where there is none."""
    steps = find_steps(directory)
    return _check(directory / str(steps[-1]), steps[-1], quick=True) if steps else None


def _check(path: Path, step: int, quick: bool) -> Listed:
    size = num_bytes(path)
    metadata: dict[str, Any] = {}
    try:
        manifest = load_manifest(path)
        arrays, metadata = manifest["arrays"], manifest["metadata"]
        problems = find_damaged_files(path, arrays)
        if not problems and not quick:
            problems = find_damaged_arrays(path, arrays)
    except DefectError as defect:
        return Listed(path.name, step, size, "damaged", [str(defect)], metadata)
    except (CheckpointError, OSError) as error:  # of a later version, or the disk fails
        return Listed(path.name, step, size, "unreadable", [str(error)], metadata)
    verdict: CheckpointVerdict = "damaged" if problems else "not read" if quick else "whole"
    return Listed(path.name, step, size, verdict, problems, metadata)


def _leftover(name: str) -> CheckpointVerdict | None:
    if TEMPORARY in name:
        return "unfinished"
    if DISCARDED in name:
        return "discarded"
    return "set aside" if DAMAGED in name else None
