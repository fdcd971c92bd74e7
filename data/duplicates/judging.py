"""Decides which documents are duplicates of others, and which of these are dropped."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flaxmill.data.config import DataConfig, Duplicates
from flaxmill.data.duplicates.exact import DigestPart, find_exact, part_ends
from flaxmill.data.duplicates.near import SignedPart, find_near
from flaxmill.data.objectives import data_of
from flaxmill.data.text.held_out import Split


class JudgedDuplicates(NamedTuple):
    """What becomes of the documents.

    is_dropped: bool [n] for each part.
    statistics: the numbers of duplicates in each split, as the data card shows them.
    """

    is_dropped: list[np.ndarray]
    statistics: dict[Split, dict[str, int]]


def check_duplicates(config: DataConfig, objective: str) -> None:
    """Raises ValueError where duplicates would be looked for among labelled examples."""
    if config.duplicates != "keep" and data_of(objective).examples is not None:
        raise ValueError(
            f"data.duplicates={config.duplicates} looks for equal documents of text, and "
            f"objective={objective} reads labelled examples; use data.duplicates=keep"
        )


def looks_for_near(choice: Duplicates) -> bool:
    """Whether documents must be signed."""
    return choice in ("report", "drop_near")


def judge_duplicates(
    parts: Sequence[DigestPart], signatures: Sequence[np.ndarray] | None, choice: Duplicates
) -> JudgedDuplicates:
    """Finds duplicates, counts them in each split, and drops what `choice`, data.duplicates, says.

    Raises ValueError where that would leave no training document.

    Args:
      signatures: uint32 [n, 128] for each part, where near duplicates are looked for. Better on disk, as
        memory maps: they take most of the room.
    """
    if not parts:
        return JudgedDuplicates([], {})
    is_held_out = np.concatenate([part.is_held_out for part in parts])
    found = {"num_duplicates": find_exact(parts)}
    if looks_for_near(choice):
        assert signatures is not None
        found["num_near_duplicates"] = find_near(
            [
                SignedPart(signed, part.is_held_out, part.is_empty | copies)
                for signed, part, copies in zip(signatures, parts, found["num_duplicates"], strict=True)
            ]
        )
    chosen = {name: np.concatenate(of_parts) for name, of_parts in found.items()}
    is_dropped = np.zeros(len(is_held_out), bool)
    if choice in ("drop_exact", "drop_near"):
        is_dropped = np.logical_or.reduce(list(chosen.values()))
        is_empty = np.concatenate([part.is_empty for part in parts])
        _require_training(is_dropped[~(is_held_out | is_empty)], choice)
        chosen["num_dropped"] = is_dropped
    sides: dict[Split, np.ndarray] = {"train": ~is_held_out, "valid": is_held_out}
    statistics: dict[Split, dict[str, int]] = {
        split: {name: int((documents & side).sum()) for name, documents in chosen.items()}
        for split, side in sides.items()
    }
    return JudgedDuplicates(np.split(is_dropped, part_ends(parts)[:-1]), statistics)


def _require_training(is_dropped: np.ndarray, choice: Duplicates) -> None:
    if len(is_dropped) and is_dropped.all():
        raise ValueError(
            f"data.duplicates={choice} drops every training document ({len(is_dropped):,}): each equals a "
            "held-out one, or almost does; hold out other text, or use data.duplicates=keep"
        )
