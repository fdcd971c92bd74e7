"""The least time that a step can take: arithmetic, memory, wires or network, whichever needs most.

All four are taken to run at their published peaks and at the same time. So it is a ceiling of the speed;
cost.py says how far below it real runs stay.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from flaxmill.sharding.hardware.chips import Chip
from flaxmill.train.metrics.flops import StepFlops

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


class Transfer(Protocol):
    """A collective, as the compiled program or the design has it."""

    @property
    def kind(self) -> str: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def times(self) -> int: ...
    @property
    def axes(self) -> tuple[str, ...]: ...
    @property
    def across_slices(self) -> bool: ...
    @property
    def wire_bytes(self) -> int | None:
        """What a device sends in one run; None: what it sends by an algorithm that sends the least."""
        ...

    @property
    def group(self) -> int | None:
        """Devices that take part in one exchange; None: all along its axes."""
        ...


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Seconds that one step needs at least, on each of four resources."""

    compute_seconds: float
    memory_seconds: float
    wire_seconds: float
    network_seconds: float
    num_tokens: int
    """Tokens of a step."""
    flops: StepFlops
    """Of the model, for MFU."""
    peak_flops: float
    """Of all devices."""

    @property
    def resources(self) -> dict[str, float]:
        return {
            "compute": self.compute_seconds,
            "memory": self.memory_seconds,
            "wires": self.wire_seconds,
            "network": self.network_seconds,
        }

    @property
    def binds(self) -> str:
        """The resource that needs most time."""
        return max(self.resources, key=lambda name: self.resources[name])

    @property
    def seconds(self) -> float:
        return max(self.resources.values())

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds

    @property
    def mfu(self) -> StepFlops:
        """Model FLOPs utilisation at the ceiling, by both counts of causal attention."""
        return StepFlops(*(count / self.seconds / self.peak_flops for count in self.flops))


def make_roofline(
    flops: StepFlops,
    hardware_flops: float,
    memory_bytes: float,
    transfers: Iterable[Transfer],
    chip: Chip,
    mesh_shape: Mapping[str, int],
    num_tokens: int,
    domain: int | None = None,
) -> Roofline:
    """The roofline of a step.

    Args:
      flops: of the model, on all devices.
      hardware_flops: with what is computed again, on all devices.
      memory_bytes: that a device reads and writes at least.
      transfers: of one device.
      domain: devices that share fast links; None: what the chip says, or all of them.
    """
    num_devices = math.prod(mesh_shape.values())
    total = total_sent(transfers, mesh_shape, domain or chip.link_domain or num_devices)
    return Roofline(
        compute_seconds=hardware_flops / num_devices / chip.peak_flops,
        memory_seconds=memory_bytes / chip.memory_bandwidth,
        wire_seconds=total.links / (chip.link_bandwidth / 2),  # what a device sends it can receive meanwhile
        network_seconds=total.network / chip.network_bandwidth,
        num_tokens=num_tokens,
        flops=flops,
        peak_flops=num_devices * chip.peak_flops,
    )


def total_sent(transfers: Iterable[Transfer], mesh_shape: Mapping[str, int], domain: int) -> Sent:
    """Bytes that a device sends in a step."""
    links = network = 0.0
    for transfer in transfers:
        one = _sent_once(transfer, mesh_shape, domain)
        links, network = links + transfer.times * one.links, network + transfer.times * one.network
    return Sent(links, network)


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


def _sent_once(transfer: Transfer, mesh_shape: Mapping[str, int], domain: int) -> Sent:
    wire_bytes = transfer.num_bytes if transfer.wire_bytes is None else transfer.wire_bytes
    if transfer.kind == "send":  # a runtime's transfer between slices, of which the program shows this end
        return Sent(0.0, wire_bytes)
    group = group_of(transfer.axes, mesh_shape, domain)
    size = transfer.group or group.size
    if size <= group.near < group.size:  # compiled for slices: what crosses them is in sends of its own
        return Sent(wire_bytes, 0.0)
    return sent(transfer.kind, transfer.num_bytes, group)


@functools.cache
def _group(sizes: tuple[int, ...], chosen: tuple[bool, ...], domain: int) -> Group:
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    members = devices[tuple(slice(None) if take else 0 for take in chosen)]
    return Group(members.size, int((members // domain == 0).sum()))
