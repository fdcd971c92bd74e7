"""What settings would change that trade memory, arithmetic and traffic for each other, by the estimate."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from flaxmill.sharding.hardware.chips import Chip
from flaxmill.train.experiment import Experiment, flatten
from flaxmill.train.plan.analytic import Estimate, estimate
from flaxmill.train.plan.proposals import REMATS, apply_overrides
from flaxmill.train.plan.roofline import total_sent

SETTINGS = {
    "model.remat": REMATS,
    "optimizer.gradient_dtype": ("float32", "bfloat16"),
    "optimizer.moment_dtype": ("float32", "bfloat16"),
    "optimizer.offload": (False, True),
    "mesh.sequence_parallel": (False, True),
}


class Effect(NamedTuple):
    """A setting, and the step with it."""

    field: str
    value: str | bool
    is_set: bool
    """Whether the experiment has it."""
    memory_bytes: int
    sent_bytes: float
    """Of one device in a step."""
    seconds: float | None
    """The least time of a step; None: the chip is unknown."""


def list_effects(
    experiment: Experiment,
    mesh_shape: Mapping[str, int],
    chip: Chip | None,
    num_slices: int = 1,
    domain: int | None = None,
) -> list[Effect]:
    """Each value of each setting that has several here, the others as they are."""
    found: dict[str, list[Effect]] = {}
    for field, value, is_set in _values(experiment, mesh_shape, chip):
        try:
            changed = apply_overrides(experiment, {field: value})
            one = estimate(changed, mesh_shape, chip, num_slices, domain)
        except ValueError:  # other settings refuse it
            continue
        seconds = None if one.roofline is None else one.roofline.seconds
        effect = Effect(field, value, is_set, one.memory.total, _sent(one, mesh_shape), seconds)
        found.setdefault(field, []).append(effect)
    return [effect for effects in found.values() if len(effects) > 1 for effect in effects]


def _values(
    experiment: Experiment, mesh_shape: Mapping[str, int], chip: Chip | None
) -> Iterator[tuple[str, str | bool, bool]]:
    fields = flatten(experiment)
    for field, values in SETTINGS.items():
        if field == "mesh.sequence_parallel" and mesh_shape["tensor"] == 1:
            continue  # there is nothing to split the tokens over
        if field == "optimizer.offload" and chip is None:
            continue  # a CPU's memory is the host's
        own = fields[field]
        yield from ((field, value, value == own) for value in dict.fromkeys((*values, own)))


def _sent(found: Estimate, mesh_shape: Mapping[str, int]) -> float:
    """Over all wires."""
    num_devices = 1
    for size in mesh_shape.values():
        num_devices *= size
    return sum(total_sent(found.collectives, mesh_shape, num_devices))
