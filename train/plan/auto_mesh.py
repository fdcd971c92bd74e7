"""The mesh of `flaxmill train --auto-mesh`: chosen by the planner's estimate; nothing is compiled.

Tried are meshes of all devices over which the experiment divides (sharding/mesh_shapes.py), as
`flaxmill plan --search` does. On a chip that is known, the fastest that fits is taken. If others are as fast
for all that the estimate can tell, the simplest of those that leave half of the memory free is taken.
Of other devices no speed is known, and simulated ones share their cores: the simplest that fits is taken.
Simple is a large data, then a large fsdp, expert, tensor, and at last context. Where none fits, the least
memory counts.
"""

import dataclasses
import itertools
import socket
from collections.abc import Iterator
from typing import NamedTuple

import jax

from flaxmill.sharding.hardware.chips import Chip, chip_of_kind
from flaxmill.sharding.hardware.host_memory import host_memory_bytes
from flaxmill.sharding.mesh import MeshConfig, describe_shape
from flaxmill.sharding.mesh_shapes import mesh_shapes, shares_in_vain
from flaxmill.sharding.processes.coordination import is_main, texts_of_all
from flaxmill.train.compilation.compiled_step import resolve_without_data
from flaxmill.train.experiment import Experiment
from flaxmill.train.plan.analytic import Estimate, estimate
from flaxmill.train.plan.cost import in_time
from flaxmill.train.plan.memory import in_words
from flaxmill.train.plan.proposals import SPARE
from flaxmill.train.plan.search import choose, list_meshes

NOT_TOLD = 0.02, 1e-3
"""A share of a step, and seconds, that the estimate does not tell apart: it counts no latency."""
AMPLE = 0.5
"""The share of the memory up to which no device runs out of it, though the program may need more."""


class Devices(NamedTuple):
    """The devices of all processes, as far as the choice depends on them."""

    number: int
    memory_bytes: int
    """What a program may use of each."""
    chip: Chip | None = None
    """None: a CPU, or an accelerator that is not known."""
    num_slices: int = 1
    domain: int | None = None
    """How many share fast links; None: as the chip says, or those of a slice."""


class Choice(NamedTuple):
    """A mesh, and what is said for it."""

    shape: dict[str, int]
    estimate: Estimate
    rule: str
    """What it is among them."""
    fits: bool
    num_meshes: int
    """Meshes that it was chosen among: those that fit, or where none does, all."""


def choose_mesh(experiment: Experiment) -> MeshConfig:
    """The mesh for the devices that JAX finds; process 0 says it. All processes must call it.

    Raises:
      ValueError: the experiment divides over no mesh of all devices, or its vocabulary has no known size.
    """
    devices = find_devices()
    choice = best_mesh(resolve_without_data(experiment), devices)
    if is_main():
        print(describe_choice(choice, devices))
    return dataclasses.replace(experiment.mesh, slices=devices.num_slices, **choice.shape)


def best_mesh(experiment: Experiment, devices: Devices) -> Choice:
    """The choice for a resolved experiment; errors as in `choose_mesh`."""
    choice = _simplest(experiment, devices) if devices.chip is None else _fastest(experiment, devices)
    if choice is None:
        raise ValueError(_why_none(experiment, devices))
    return choice


def describe_choice(choice: Choice, devices: Devices) -> str:
    """The mesh in one line, and why it is this one."""
    roofline, memory = choice.estimate.roofline, choice.estimate.memory.total
    which = f"{choice.rule} of {choice.num_meshes}{' that fit' if choice.fits else ''}"
    need = f"about {in_words(memory)} of {in_words(devices.memory_bytes)} a device"
    seconds = "" if roofline is None else f", {in_time(roofline.seconds)} a step at least"
    fix = "" if choice.fits else "; it may not fit: `flaxmill plan` says what would help"
    return f"mesh: {describe_shape(choice.shape)} ({which}): {need}{seconds}, by the estimate{fix}"


def find_devices() -> Devices:
    """What JAX finds, the same in all processes."""
    devices = jax.devices()
    chip = chip_of_kind(devices[0].device_kind)
    memory_bytes = _memory_bytes(chip)
    if chip is None:
        return Devices(len(devices), memory_bytes)
    chip = dataclasses.replace(chip, memory_bytes=memory_bytes)
    if chip.platform == "tpu":
        num_slices = len({getattr(device, "slice_index", 0) for device in devices})
        return Devices(len(devices), memory_bytes, chip, num_slices)
    a_host = len(devices) // len({device.process_index for device in devices})
    return Devices(len(devices), memory_bytes, chip, domain=a_host if a_host > 1 else None)


def _memory_bytes(chip: Chip | None) -> int:
    """What a program may use of the smallest device: its allocator's limit, or its share of the host."""
    known = None if chip is None else chip.memory_bytes
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", known)
    if limit is not None:
        return min(map(int, texts_of_all(str(limit))))
    own = host_memory_bytes() // jax.local_device_count()
    found = texts_of_all(f"{own} {socket.gethostname()}")  # processes of one host share its memory
    return min(int(text.split()[0]) // found.count(text) for text in found)


def _fastest(experiment: Experiment, devices: Devices) -> Choice | None:
    chip = devices.chip
    assert chip is not None
    tried = list_meshes(experiment, chip, devices.number, devices.num_slices, devices.domain)
    ranked = choose(tried, chip, most=len(tried))
    if not ranked:
        return None
    first, num_fitting = ranked[0], sum(one.fits for one in ranked)
    if not first.fits:
        return Choice(dict(first.estimate.mesh), first.estimate, "the least memory", False, len(ranked))
    share, more = NOT_TOLD
    same = itertools.takewhile(lambda one: one.seconds <= (1 + share) * first.seconds + more, ranked)
    ample = [one for one in same if one.estimate.memory.total <= AMPLE * chip.memory_bytes]
    best = max(ample, key=lambda one: _simplicity(one.estimate), default=first)
    rule = "the fastest" if best is first else "the simplest of the fastest"
    return Choice(dict(best.estimate.mesh), best.estimate, rule, True, num_fitting)


def _simplest(experiment: Experiment, devices: Devices) -> Choice | None:
    tried = list(_estimates(experiment, devices.number))
    fitting = [one for one in tried if one.memory.total <= SPARE * devices.memory_bytes]
    if fitting:
        best = max(fitting, key=_simplicity)
        return Choice(dict(best.mesh), best, "the simplest", True, len(fitting))
    if tried:
        best = min(tried, key=lambda one: one.memory.total)
        return Choice(dict(best.mesh), best, "the least memory", False, len(tried))
    return None


def _simplicity(found: Estimate) -> list[int]:
    sizes = dict(found.mesh)
    return [sizes[axis] for axis in ("data", "fsdp", "expert", "tensor", "context")]


def _estimates(experiment: Experiment, num_devices: int) -> Iterator[Estimate]:
    """Of the meshes that the experiment divides over; all wires are taken to be alike, so without stages."""
    for shape in mesh_shapes(num_devices, 1, num_devices, experiment.model.num_experts):
        if shares_in_vain(experiment.batch_size, experiment.accumulate, shape):
            continue
        try:
            yield estimate(experiment, shape, None)
        except ValueError:  # it does not divide
            continue


def _why_none(experiment: Experiment, devices: Devices) -> str:
    """What does not divide over the simplest mesh."""
    shape = {"data": devices.number, "fsdp": 1, "tensor": 1}
    try:
        estimate(experiment, shape, devices.chip, devices.num_slices, devices.domain)
    except ValueError as error:
        return (
            f"--auto-mesh finds no mesh for all {devices.number} devices: {error}; or set --mesh.* yourself"
        )
    raise AssertionError(f"{shape} is a mesh that was not tried")
