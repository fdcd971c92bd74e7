"""Checks that a checkpoint fits the experiment; if not, says how they differ and the likely cause."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from flaxmill.data.messages import shorten
from flaxmill.model.heads import HEAD_PARAMETERS
from flaxmill.model.layer_plan import LAYER_GROUPS
from flaxmill.model.params import LeafPath
from flaxmill.train.checkpoint.manifest import join
from flaxmill.train.checkpoint.store import PARAMS
from flaxmill.train.failures import CheckpointError

MAX_LISTED = 4  # leaves of one kind named in an error

Shapes = dict[str, tuple[tuple[int, ...], str]]


class Differences(NamedTuple):
    """Names of leaves that only one side has, or that have another shape or dtype."""

    missing: list[str]
    extra: list[str]
    changed: list[str]


def check_fits(arrays: Mapping[str, Any], wanted: Mapping[LeafPath, Any], where: str) -> None:
    """Compare the stored arrays with the wanted shapes and dtypes.

    Raises:
      CheckpointError: listing leaves that are missing, left over, or of another shape or dtype.
    """
    stored: Shapes = {name: (tuple(array["shape"]), array["dtype"]) for name, array in arrays.items()}
    asked: Shapes = {join(path): (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in wanted.items()}
    found = Differences(
        missing=[name for name in asked if name not in stored],
        extra=[name for name in stored if name not in asked],
        changed=[name for name in asked if name in stored and stored[name] != asked[name]],
    )
    if not any(found):
        return
    in_words = [
        f"{name} (stored {_text(stored[name])}, wanted {_text(asked[name])})" for name in found.changed
    ]
    problems = [
        f"{what} {shorten(names, MAX_LISTED)}"
        for what, names in (
            ("it lacks", found.missing),
            ("it also holds", found.extra),
            ("these differ:", in_words),
        )
        if names
    ]
    raise CheckpointError(
        f"{where} does not fit the model and optimizer: {'; '.join(problems)}; "
        f"{probable_cause(stored, asked, found)}"
    )


def probable_cause(stored: Shapes, asked: Shapes, found: Differences) -> str:
    """What most likely made them differ, and what to do; the optimizer's leaves follow the params'."""
    params = Differences(*([name for name in names if _is_param(name)] for names in found))
    differing = [*params.missing, *params.extra, *params.changed]
    if (
        not found.missing
        and not found.extra
        and all(stored[name][0] == asked[name][0] for name in found.changed)
    ):
        return "only dtypes differ: use the precision that wrote it"
    if not differing:
        return "all params fit: another optimizer? use the optimizer.* that wrote it"
    groups = {name.split("/")[1] for name in differing}
    if groups <= set(HEAD_PARAMETERS):
        names = ", ".join(sorted(groups))
        return f"only {names} differ: another objective or model.head? use the one that wrote it"
    if not params.missing and not params.extra:
        dims = {_other_dim(stored[name][0], asked[name][0]) for name in params.changed}
        if len(dims) == 1 and (dim := dims.pop()):
            return _cause_of_dim(params.changed, dim)
    if all(_is_in_layers(name) for name in differing) and _count(stored) == _count(asked):
        return "both have as many parameters: another layer layout? use the model.layer_pattern that wrote it"
    if len(differing) == len({name for name in (*stored, *asked) if _is_param(name)}):
        return "all params differ: another model? use the model.* that wrote it"
    return "use the configuration that wrote it"


def _cause_of_dim(changed: list[str], dim: tuple[int, int]) -> str:
    """Name the cause where one dimension differs, in the same way in all leaves that differ."""
    sizes = "stored {}, wanted {}".format(*dim)
    if any(name.endswith("tokens/embedding") for name in changed):
        return f"another vocabulary ({sizes}, padded)? use the tokenizer that wrote it"
    if all(name.endswith("positions/embedding") for name in changed):
        return f"other model.max_positions ({sizes})? use those that wrote it"
    if all(_is_in_layers(name) for name in changed):
        return f"another model.num_layers ({sizes})? use the number that wrote it"
    return "use the configuration that wrote it"


def _other_dim(stored: tuple[int, ...], asked: tuple[int, ...]) -> tuple[int, int] | None:
    """The only dimension that differs, or None."""
    if len(stored) != len(asked):
        return None
    differing = [(old, new) for old, new in zip(stored, asked, strict=True) if old != new]
    return differing[0] if len(differing) == 1 else None


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for name, (shape, _) in shapes.items() if _is_param(name))


def _is_param(name: str) -> bool:
    return name.startswith(f"{PARAMS}/")


def _is_in_layers(name: str) -> bool:
    return not set(LAYER_GROUPS).isdisjoint(name.split("/"))


def _text(described: tuple[tuple[int, ...], str]) -> str:
    shape, dtype = described
    return f"{dtype}{list(shape)}"
