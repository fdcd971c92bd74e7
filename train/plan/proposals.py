"""What would make an experiment fit, from cheap to dear, each checked by the estimate."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from flaxmill.sharding.hardware.chips import Chip
from flaxmill.train.experiment import Experiment
from flaxmill.train.plan.analytic import Estimate, estimate

MOST = 3
"""Proposals that are made."""
SPARE = 0.95
"""The share of the memory that an estimate may take: it is right within some percent."""
REMATS = ("none", "dots", "full")
REASONS = {
    "remat": "computes more of the layers again",
    "accumulate": "more microbatches, each of which gathers the weights again",
    "fsdp": "divides the state over more devices, which gather more",
    "tensor": "divides the layers, at the price of two sums of activations a layer and pass",
    "batch": "changes what is trained: fewer rows an update",
}


class Proposal(NamedTuple):
    """Changes of fields after which a step fits."""

    overrides: dict[str, Any]
    """By the dotted names of the fields that change."""
    estimate: Estimate
    reason: str


class _Change(NamedTuple):
    """How far each knob is turned, the dearest first: a smaller tuple is a cheaper proposal."""

    batch: int
    tensor: int
    fsdp: int
    accumulate: int
    remat: int


def propose(
    experiment: Experiment,
    mesh_shape: Mapping[str, int],
    chip: Chip,
    num_slices: int = 1,
    domain: int | None = None,
    compiled: int | None = None,
) -> list[Proposal]:
    """The cheapest change that fits, then the cheapest ones that change other things; [] if none does.

    Args:
      compiled: bytes that the compiled step of the experiment as it is takes on a device. What it takes
        beyond the estimate, beside the state, the changed steps are taken to need in proportion.
    """
    found: dict[frozenset[str], Proposal] = {}
    now = estimate(experiment, mesh_shape, chip, num_slices, domain)
    limit = min(SPARE * chip.memory_bytes, now.memory.total if compiled is None else compiled)
    factor = factor_of(now, compiled)
    for change in sorted(_changes(experiment)):
        changed = frozenset(name for name, step in change._asdict().items() if step)
        if not changed or any(known <= changed for known in found):
            continue  # a part of this change is enough
        proposal = _try(experiment, mesh_shape, chip, num_slices, domain, change)
        if proposal is not None and scaled(proposal.estimate, factor) <= limit:
            found[changed] = proposal
            if len(found) == MOST:
                break
    return list(found.values())


def apply_overrides(experiment: Experiment, overrides: Mapping[str, Any]) -> Experiment:
    """The experiment with these fields, by their dotted names."""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in overrides.items():
        part, _, field = name.rpartition(".")
        parts.setdefault(part, {})[field] = value
    own = parts.pop("", {})
    nested = {part: replace(getattr(experiment, part), **fields) for part, fields in parts.items()}
    return replace(experiment, **own, **nested)


def factor_of(found: Estimate, compiled: int | None) -> float:
    """How much more than the estimate the compiled program takes beside the state; 1: no more."""
    state = found.memory.parameters + found.memory.optimizer
    return 1.0 if compiled is None else max(1.0, (compiled - state) / (found.memory.total - state))


def scaled(found: Estimate, factor: float) -> float:
    """Bytes that a step takes which needs so much more than its estimate beside the state."""
    state = found.memory.parameters + found.memory.optimizer
    return state + factor * (found.memory.total - state)


def remats_from(remat: str) -> tuple[str, ...]:
    """The policies that keep as much as this one or less; a policy of other names stands alone with full."""
    return REMATS[REMATS.index(remat) :] if remat in REMATS else (remat, REMATS[-1])


def _changes(experiment: Experiment) -> Iterator[_Change]:
    remats = range(len(remats_from(experiment.model.remat)))
    for steps in itertools.product(range(3), range(4), range(11), range(9), remats):
        yield _Change(*steps)


def _try(
    experiment: Experiment,
    mesh_shape: Mapping[str, int],
    chip: Chip,
    num_slices: int,
    domain: int | None,
    change: _Change,
) -> Proposal | None:
    mesh = _turned(mesh_shape, change, num_slices)
    near = domain or chip.link_domain
    if mesh is None or (near and near % mesh["tensor"]) or experiment.batch_size % 2**change.batch:
        return None
    overrides = {
        "model.remat": remats_from(experiment.model.remat)[change.remat],
        "accumulate": experiment.accumulate * 2**change.accumulate,
        "batch_size": experiment.batch_size // 2**change.batch,
    }
    try:
        changed = apply_overrides(experiment, overrides)
        found = estimate(changed, mesh, chip, num_slices, domain)
    except ValueError:  # it does not divide
        return None
    reasons = [REASONS[name] for name, steps in reversed(change._asdict().items()) if steps]
    fields = {f"mesh.{axis}": size for axis, size in mesh.items()} if mesh != dict(mesh_shape) else {}
    before = {"model.remat": experiment.model.remat, "accumulate": experiment.accumulate}
    before |= {"batch_size": experiment.batch_size}
    told = {name: value for name, value in overrides.items() if value != before[name]}
    return Proposal(told | fields, found, "; ".join(reasons))


def _turned(mesh_shape: Mapping[str, int], change: _Change, num_slices: int) -> dict[str, int] | None:
    """The mesh with more devices for tensor, taken from fsdp or else from data, and for fsdp, from data."""
    mesh = dict(mesh_shape)
    for _ in range(change.tensor):
        giver = "fsdp" if mesh["fsdp"] % 2 == 0 else "data"
        if mesh[giver] % 2 or (giver == "data" and mesh["data"] // 2 % num_slices):
            return None
        mesh[giver] //= 2
        mesh["tensor"] *= 2
    for _ in range(change.fsdp):
        if mesh["data"] % 2 or mesh["data"] // 2 % num_slices:
            return None
        mesh["data"] //= 2
        mesh["fsdp"] *= 2
    return mesh
