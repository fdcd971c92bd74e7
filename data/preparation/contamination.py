"""Measures how much of the held-out text is in the training documents too."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxmill.data.duplicates.held_out_runs import HeldOutRuns, choose_length
from flaxmill.data.preparation.plan import Plan
from flaxmill.data.preparation.planned_documents import PlannedDocuments
from flaxmill.data.preparation.work_directory import WorkDirectory
from flaxmill.data.tokenizer.roles import Frame
from flaxmill.data.whole_files import write_whole


class Documents(NamedTuple):
    """Neighbouring documents of a split: those from number `start` to before `stop`."""

    start: int
    stop: int


def measure_contamination(
    work: WorkDirectory,
    plan: Plan,
    documents: PlannedDocuments,
    frame: Frame,
    run: Callable[..., Iterator[np.ndarray]],
) -> dict[str, float | int]:
    """The statistics of `HeldOutRuns` for the documents that are kept, and the length of a run.

    Args:
      frame: the special tokens around each document.
      run: calls (make, arguments, tasks), and gives what `make(*arguments)` gives for each task.
    """
    valid = plan.splits["valid"]
    length = choose_length(valid.num_tokens, valid.num_bytes)
    texts = _without_frame(documents, Documents(0, valid.num_documents), frame)
    runs = HeldOutRuns(texts, length=length)
    tasks = [
        Documents(*ends) for ends in pairwise(plan.splits["train"].documents_before) if ends[0] < ends[1]
    ]
    found = run(make_finder, (work, documents, runs), iter(tasks))
    return runs.statistics(found) | {"run_length": length}


def make_finder(
    work: WorkDirectory, documents: PlannedDocuments, runs: HeldOutRuns
) -> Callable[[Documents], np.ndarray]:
    """What finds the held-out runs that training documents hold, and keeps them in the work directory."""

    def run(task: Documents) -> np.ndarray:
        path = work.found_runs(task.start)
        if (kept := _read(path)) is not None:
            return kept
        found = [one for part in documents.read("train", *task) for one in part.tokens]
        starts = np.zeros(sum(map(len, found)), bool)
        starts[np.cumsum([0, *(len(tokens) for tokens in found[:-1])])] = True
        numbers = runs.find(np.concatenate(found), starts).astype(np.int32)
        write_whole(path, lambda partial: np.save(partial, numbers))
        return numbers

    return run


def _read(path: Path) -> np.ndarray | None:
    """What was found before; None: nothing was, or the file is damaged."""
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError):
        return None


def _without_frame(documents: PlannedDocuments, held_out: Documents, frame: Frame) -> Iterator[np.ndarray]:
    first, num_last = len(frame.before), len(frame.after)
    for part in documents.read("valid", *held_out):
        for tokens in part.tokens:
            yield tokens[first : len(tokens) - num_last]
