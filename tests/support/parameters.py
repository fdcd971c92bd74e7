"""Parameters of tests: all of them, or some here and the others in `make sweep`."""

from collections.abc import Sequence
from typing import Any

import pytest


def each(names: Sequence[str], meshes: Sequence[dict[str, Any]]) -> list[Any]:
    """Every model on every mesh."""
    return [pytest.param(name, mesh, id=f"{name}-{mesh}") for name in names for mesh in meshes]


def in_turn(names: Sequence[str], meshes: Sequence[dict[str, Any]]) -> list[Any]:
    """Every model on every mesh: each mesh here with one of the models in turn, and swept with the others."""
    pairs = [
        (name, mesh, turn == place % len(names))
        for place, mesh in enumerate(meshes)
        for turn, name in enumerate(names)
    ]
    return [
        pytest.param(name, mesh, id=f"{name}-{mesh}", marks=[] if here else [pytest.mark.sweep])
        for name, mesh, here in pairs
    ]


def swept(*values: str) -> list[Any]:
    """These only in the sweep: other values show here that the kind of thing works."""
    return [pytest.param(value, marks=[pytest.mark.sweep]) for value in values]
