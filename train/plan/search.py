"""Meshes, remat policies and numbers of microbatches for the devices at hand, ranked by the estimate."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flaxmill.sharding.hardware.chips import Chip
from flaxmill.train.experiment import Experiment
from flaxmill.train.plan.analytic import Estimate, estimate
from flaxmill.train.plan.proposals import REMATS, SPARE, apply_overrides, scaled

MOST_TENSOR = 16
MOST_TPU_GROUP = 32
"""Devices of one fsdp group that gather and scatter in one stage."""
HIDDEN = 0.1
"""The share of what other resources need that a step is taken to wait for, though they run beside it."""

MICROBATCHES = 0.02
"""The share of a step that each doubling of the microbatches is taken to cost: small ones run less well."""


class Candidate(NamedTuple):
    """One way to lay the experiment out."""

    overrides: dict[str, Any]
    """By the dotted names of fields: mesh, model.remat and accumulate."""
    estimate: Estimate
    seconds: float
    """What it is ranked by: the ceiling, and a share of what is hidden behind it."""
    fits: bool
    reasons: str


def candidates(
    experiment: Experiment,
    chip: Chip,
    num_devices: int,
    num_slices: int = 1,
    domain: int | None = None,
    most: int = 10,
) -> list[Candidate]:
    """The best layouts, the best first; those that do not fit come last."""
    return choose(list_layouts(experiment, chip, num_devices, num_slices, domain), chip, most)


def list_layouts(
    experiment: Experiment, chip: Chip, num_devices: int, num_slices: int = 1, domain: int | None = None
) -> list[Candidate]:
    """Every mesh, policy and number of microbatches, in no order."""
    settings = itertools.product(REMATS, _counts(experiment))
    return _list(experiment, chip, num_devices, num_slices, domain, list(settings))


def list_meshes(
    experiment: Experiment, chip: Chip, num_devices: int, num_slices: int = 1, domain: int | None = None
) -> list[Candidate]:
    """Every mesh, with the policy and the number of microbatches that the experiment has, in no order."""
    own = [(experiment.model.remat, experiment.accumulate)]
    return _list(experiment, chip, num_devices, num_slices, domain, own)


def _list(
    experiment: Experiment,
    chip: Chip,
    num_devices: int,
    num_slices: int,
    domain: int | None,
    settings: Sequence[tuple[str, int]],
) -> list[Candidate]:
    near = domain or chip.link_domain or num_devices // num_slices
    tried = (
        _try(experiment, chip, mesh, remat, count, num_slices, near)
        for mesh in mesh_shapes(num_devices, num_slices, near, experiment.model.num_experts)
        for remat, count in settings
    )
    return [one for one in tried if one is not None]


def choose(
    layouts: Sequence[Candidate], chip: Chip, most: int = 10, factors: Mapping[str, float] | None = None
) -> list[Candidate]:
    """The best layouts, the best first; of each mesh and policy one, with the microbatches that suit it best.

    Args:
      factors: how much more than their estimate steps take beside the state, by the policy of `model.remat`.
    """
    best: dict[tuple, Candidate] = {}
    for one in layouts:
        judged = _judge(one, chip, (factors or {}).get(one.overrides["model.remat"], 1.0))
        *mesh, remat, _ = one.overrides.values()
        known = best.setdefault((*mesh, remat), judged)
        if ranking(chip)(judged) < ranking(chip)(known):
            best[(*mesh, remat)] = judged
    return sorted(best.values(), key=ranking(chip))[:most]


def _judge(one: Candidate, chip: Chip, factor: float) -> Candidate:
    """The layout, and whether it fits where steps take so much more than their estimate."""
    share = scaled(one.estimate, factor) / chip.memory_bytes
    if share <= SPARE:
        return one
    return one._replace(fits=False, reasons=f"needs {share:.2f} of the memory; {one.reasons}")


def mesh_shapes(
    num_devices: int, num_slices: int, near: int, num_experts: int | None
) -> Iterator[dict[str, int]]:
    """Meshes of all devices, of which so many are near each other: data, fsdp, expert and tensor."""
    inner = ((expert, tensor) for expert in _divisors(num_experts or 1) for tensor in _divisors(num_devices))
    for expert, tensor in inner:
        if tensor > MOST_TENSOR or near % (expert * tensor) or num_devices % (expert * tensor):
            continue  # activations stay on the fast links
        for fsdp in _divisors(num_devices // tensor // expert):
            data = num_devices // tensor // expert // fsdp
            if data % num_slices == 0:
                divided = {"expert": expert} if num_experts else {}
                yield {"data": data, "fsdp": fsdp, **divided, "tensor": tensor}


def _counts(experiment: Experiment) -> list[int]:
    """Numbers of microbatches: powers of two times the experiment's own odd part."""
    odd = experiment.accumulate
    while odd % 2 == 0:
        odd //= 2
    counts = [odd * 2**power for power in range(12)]
    return [count for count in counts if experiment.batch_size % count == 0]


def _try(
    experiment: Experiment,
    chip: Chip,
    mesh: dict[str, int],
    remat: str,
    accumulate: int,
    num_slices: int,
    near: int,
) -> Candidate | None:
    if experiment.batch_size % (accumulate * mesh["data"] * mesh["fsdp"] * mesh.get("expert", 1)):
        return None
    overrides = {f"mesh.{axis}": size for axis, size in mesh.items()}
    overrides |= {"model.remat": remat, "accumulate": accumulate}
    changed = {name: value for name, value in overrides.items() if not name.startswith("mesh.")}
    try:
        found = estimate(apply_overrides(experiment, changed), mesh, chip, num_slices, near)
    except ValueError:  # it does not divide
        return None
    roofline = found.roofline
    assert roofline is not None
    hidden = sum(roofline.resources.values()) - roofline.seconds
    seconds = (roofline.seconds + HIDDEN * hidden) * (1 + MICROBATCHES * math.log2(accumulate))
    return Candidate(overrides, found, seconds, True, _reasons(found, chip, mesh, near))


def ranking(chip: Chip) -> Callable[[Candidate], tuple]:
    """What layouts are sorted by: those that fit, small groups, and seconds."""

    def key(candidate: Candidate) -> tuple:
        large = chip.platform == "tpu" and candidate.overrides["mesh.fsdp"] > MOST_TPU_GROUP
        need = 0 if candidate.fits else candidate.estimate.memory.total
        return need, large, candidate.seconds

    return key


def _reasons(found: Estimate, chip: Chip, mesh: dict[str, int], near: int) -> str:
    """What speaks for it and against it, in some words."""
    roofline = found.roofline
    assert roofline is not None
    words = [f"{roofline.binds} binds"]
    if chip.platform == "tpu" and mesh["fsdp"] > MOST_TPU_GROUP:
        words.append(f"{mesh['fsdp']} chips in one group gather and scatter in two stages")
    if math.prod(mesh.values()) > near and mesh["fsdp"] * mesh["tensor"] <= near:
        words.append("only gradients cross the network")
    if mesh["tensor"] > 1 and roofline.binds == "wires":
        words.append("sums of activations fill the wires")
    return "; ".join(words)


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
