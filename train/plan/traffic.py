"""How many bytes a device sends for a collective, over fast links and over the network."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

PASSES = {"all-reduce": 2}
"""Times that a collective moves its array around the group, where not once: it is a scatter and a gather."""


class Sent(NamedTuple):
    """Bytes that one device sends."""

    links: float
    """Over the fast links of a slice, or of a host of GPUs."""
    network: float
    """To other slices or hosts."""


class Group(NamedTuple):
    """The devices that one collective joins."""

    size: int
    near: int
    """How many of them share fast links with a device, itself included."""


@functools.cache
def _group(sizes: tuple[int, ...], chosen: tuple[bool, ...], domain: int) -> Group:
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    members = devices[tuple(slice(None) if take else 0 for take in chosen)]
    return Group(members.size, int((members // domain == 0).sum()))


def group_of(axes: Sequence[str], mesh_shape: Mapping[str, int], domain: int) -> Group:
    """The group along these mesh axes, where each `domain` devices in a row of the mesh share fast links."""
    return _group(tuple(mesh_shape.values()), tuple(name in axes for name in mesh_shape), domain)


def sent(kind: str, num_bytes: float, group: Group) -> Sent:
    """Bytes that a device sends for one collective, if every byte enters each domain once.

    Args:
      num_bytes: the larger of operand and result, on one device.
    """
    if group.size == 1:
        return Sent(0.0, 0.0)
    if kind == "collective-permute":
        return Sent(num_bytes, 0.0) if group.near == group.size else Sent(0.0, num_bytes)
    if kind.endswith("all-to-all"):
        return Sent(num_bytes * (group.near - 1) / group.size, num_bytes * (1 - group.near / group.size))
    once = PASSES.get(kind, 1) * num_bytes
    network = once * (1 - group.near / group.size) / group.near
    return Sent(once * (1 - 1 / group.near) if network else once * (1 - 1 / group.size), network)
