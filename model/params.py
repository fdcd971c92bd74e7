"""Trees of parameters: nested dicts of arrays, and their leaves by path."""

from collections.abc import Mapping
from typing import Any

import jax

from flaxmill.model.layer_plan import LAYER_GROUPS

Params = dict[str, Any]
"""Nested dict of float32 arrays."""
LeafPath = tuple[str, ...]
"""The names on the way to a leaf."""


def flatten(tree: Mapping[str, Any], path: LeafPath = ()) -> dict[LeafPath, Any]:
    """The leaves of a nested dict, by their paths."""
    flat: dict[LeafPath, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, (*path, name)) if isinstance(value, Mapping) else {(*path, name): value}
    return flat


def unflatten(flat: Mapping[tuple[Any, ...], Any]) -> Params:
    """The nested dict that has these leaves at their paths."""
    tree: Params = {}
    for path, value in flat.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return tree


def merge(tree: Any, other: Any) -> Any:
    """Merge two nested dicts that have no leaf in common."""
    merged = dict(tree)
    for name, value in other.items():
        merged[name] = merge(merged[name], value) if name in merged else value
    return merged


def names_of(path: tuple[Any, ...]) -> LeafPath:
    """The names on JAX's path to a leaf."""
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)


def group_of(path: LeafPath) -> LeafPath | None:
    """The path of the group of layers that a parameter is stacked in; None: it is not stacked."""
    prefix = path[:2] if path[0] == "encoder" else path[:1]
    return prefix if prefix[-1] in LAYER_GROUPS else None
