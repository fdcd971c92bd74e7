"""Meshes, remat policies, numbers of microbatches and pipelines for the devices at hand, by the estimate."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flaxmill.model.layer_plan import plan_layers
from flaxmill.model.layers.attention import LEAST_TOKENS_FOR_RING
from flaxmill.sharding.hardware.chips import Chip
from flaxmill.sharding.mesh_shapes import mesh_shapes, shares_in_vain
from flaxmill.sharding.schedule import Pipeline
from flaxmill.train.experiment import Experiment
from flaxmill.train.plan.analytic import Estimate, estimate
from flaxmill.train.plan.proposals import REMATS, SPARE, apply_overrides, scaled

MOST_TPU_GROUP = 32
"""Devices of one fsdp group that gather and scatter in one stage."""
HIDDEN = 0.1
"""The share of what other resources need that a step is taken to wait for, though they run beside it."""
MICROBATCHES = 0.02
"""The share of a step that each doubling of the microbatches is taken to cost: small ones run less well."""
SHORT_WAIT = 0.05
"""The share of their time that stages may wait; more rounds are tried until it is less."""
ONE_OF_EACH = ("model.remat", "mesh.")
"""Beginnings of the settings of which each choice is listed once, with what else suits it best."""


class Candidate(NamedTuple):
    """One way to lay the experiment out."""

    overrides: dict[str, Any]
    """By the dotted names of fields, the same of all: mesh, model.remat, accumulate and the pipeline's."""
    estimate: Estimate
    seconds: float
    """What it is ranked by: the ceiling, and a share of what is hidden behind it."""
    fits: bool
    reasons: str


class _Layout(NamedTuple):
    """What a candidate is made of."""

    mesh: dict[str, int]
    remat: str
    accumulate: int
    microbatches: int | None
    """Of a pipeline; None: by the default rule."""
    rounds: tuple[int, ...]
    """Of a pipeline: numbers to try, each if the one before did not put an end to it."""


class _Where(NamedTuple):
    """The devices that are planned for."""

    chip: Chip
    num_devices: int
    num_slices: int
    near: int
    """How many share fast links."""


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
    """Every mesh that may serve, with every policy, number of microbatches and of rounds, in no order.

    Rows of which devices would get short parts are shared only where nothing else fits, unless they are fewer
    than the devices: larger microbatches of whole rows send less.
    """
    where = _where(chip, num_devices, num_slices, domain)
    settings = list(itertools.product(REMATS, _counts(experiment)))
    layouts = [
        _Layout(mesh, remat, count, *_schedules(experiment, mesh["stage"]))
        for mesh in _meshes(experiment, where)
        for remat, count in settings
    ]
    whole = [one for one in layouts if not _parts_are_short(experiment, one)]
    found = _estimate_all(experiment, where, whole)
    if any(_fits(one, chip) for one in found):
        return found
    short = [one for one in layouts if _parts_are_short(experiment, one)]
    return found + _estimate_all(experiment, where, short)


def list_meshes(
    experiment: Experiment, chip: Chip, num_devices: int, num_slices: int = 1, domain: int | None = None
) -> list[Candidate]:
    """Every mesh that may serve, with all other settings as the experiment has them, in no order."""
    where = _where(chip, num_devices, num_slices, domain)
    own = experiment.accumulate, experiment.pipeline_microbatches, (experiment.pipeline_rounds,)
    layouts = [_Layout(mesh, experiment.model.remat, *own) for mesh in _meshes(experiment, where)]
    return _estimate_all(experiment, where, layouts)


def _where(chip: Chip, num_devices: int, num_slices: int, domain: int | None) -> _Where:
    return _Where(chip, num_devices, num_slices, domain or chip.link_domain or num_devices // num_slices)


def _meshes(experiment: Experiment, where: _Where) -> Iterator[dict[str, int]]:
    return mesh_shapes(where.num_devices, where.num_slices, where.near, experiment.model.num_experts)


def _estimate_all(experiment: Experiment, where: _Where, layouts: Sequence[_Layout]) -> list[Candidate]:
    """The layouts that the experiment divides over.

    Stages wait for each other and save no memory. So they are left out where the fastest that fits without
    them computes all the time.
    """

    def try_all(some: Iterable[_Layout]) -> list[Candidate]:
        return [found for one in some for found in _try_rounds(experiment, one, where)]

    found = try_all(one for one in layouts if one.mesh["stage"] == 1)
    fitting = [one for one in found if _fits(one, where.chip)]
    if not fitting or _binds(min(fitting, key=lambda one: one.seconds)) == "compute":
        return found
    return found + try_all(one for one in layouts if one.mesh["stage"] > 1)


def _try_rounds(experiment: Experiment, layout: _Layout, where: _Where) -> Iterator[Candidate]:
    """The layout with as many rounds as pay: more let stages wait less, which only counts where they compute
    all the time, and send more."""
    for rounds in layout.rounds:
        found = _try(experiment, layout, rounds, where)
        if found is None:
            return
        yield found
        if _binds(found) != "compute" or not _fits(found, where.chip):
            return


def choose(
    layouts: Sequence[Candidate], chip: Chip, most: int = 10, factors: Mapping[str, float] | None = None
) -> list[Candidate]:
    """The best layouts, the best first; of each mesh and policy one, with the rest that suits it best.

    Args:
      factors: how much more than their estimate steps take beside the state, by the policy of `model.remat`.
    """
    best: dict[tuple, Candidate] = {}
    for one in layouts:
        judged = _judge(one, chip, (factors or {}).get(one.overrides["model.remat"], 1.0))
        key = tuple(value for name, value in one.overrides.items() if name.startswith(ONE_OF_EACH))
        known = best.setdefault(key, judged)
        if ranking(chip)(judged) < ranking(chip)(known):
            best[key] = judged
    return sorted(best.values(), key=ranking(chip))[:most]


def _judge(one: Candidate, chip: Chip, factor: float) -> Candidate:
    """The layout, and whether it fits where steps take so much more than their estimate."""
    if _fits(one, chip, factor):
        return one
    share = scaled(one.estimate, factor) / chip.memory_bytes
    return one._replace(fits=False, reasons=f"needs {share:.2f} of the memory; {one.reasons}")


def _fits(one: Candidate, chip: Chip, factor: float = 1.0) -> bool:
    return scaled(one.estimate, factor) <= SPARE * chip.memory_bytes


def _counts(experiment: Experiment) -> list[int]:
    """Numbers of microbatches: powers of two times the experiment's own odd part."""
    odd = experiment.accumulate
    while odd % 2 == 0:
        odd //= 2
    counts = [odd * 2**power for power in range(12)]
    return [count for count in counts if experiment.batch_size % count == 0]


def _schedules(experiment: Experiment, num_stages: int) -> tuple[int | None, tuple[int, ...]]:
    """Microbatches and rounds of a pipeline to try; the experiment's own where there is none, to change
    nothing."""
    if num_stages == 1:
        return experiment.pipeline_microbatches, (experiment.pipeline_rounds,)
    runs, rest = divmod(plan_layers(experiment.model).num_periods, num_stages)
    sizes = [size for size in range(1, runs + 1) if runs % size == 0 and not rest]
    enough = (size for size in sizes if Pipeline(num_stages, 2 * num_stages, size).bubble < SHORT_WAIT)
    most = next(enough, runs)
    return None, tuple(size for size in sizes if size <= most)


def _parts_are_short(experiment: Experiment, layout: _Layout) -> bool:
    """Whether fewer microbatches of whole rows would do with as many devices, and a turn of the ring hides
    nothing."""
    context = layout.mesh["context"]
    num_tokens = experiment.data.sequence_length // context
    return math.gcd(layout.accumulate, context) > 1 and num_tokens < LEAST_TOKENS_FOR_RING


def _try(experiment: Experiment, layout: _Layout, rounds: int, where: _Where) -> Candidate | None:
    mesh, near = layout.mesh, where.near
    if shares_in_vain(experiment.batch_size, layout.accumulate, mesh):
        return None
    settings = {
        "model.remat": layout.remat,
        "accumulate": layout.accumulate,
        "pipeline_microbatches": layout.microbatches,
        "pipeline_rounds": rounds,
    }
    try:
        found = estimate(apply_overrides(experiment, settings), mesh, where.chip, where.num_slices, near)
    except ValueError:  # it does not divide
        return None
    if mesh["stage"] > 1:
        settings["pipeline_microbatches"] = found.pipeline.num_microbatches
    overrides = {f"mesh.{axis}": size for axis, size in mesh.items()} | settings
    seconds = _seconds(found, layout.accumulate)
    return Candidate(overrides, found, seconds, True, _reasons(found, where.chip, mesh, near))


def _seconds(found: Estimate, accumulate: int) -> float:
    """The ceiling, a share of what is hidden behind it, and what microbatches cost: stages divide their rows
    further."""
    roofline, pipeline = found.roofline, found.pipeline
    assert roofline is not None
    hidden = sum(roofline.resources.values()) - roofline.seconds
    parts = accumulate * pipeline.num_microbatches / pipeline.num_stages
    return (roofline.seconds + HIDDEN * hidden) * (1 + MICROBATCHES * math.log2(parts))


def ranking(chip: Chip) -> Callable[[Candidate], tuple]:
    """What layouts are sorted by: those that fit, small groups, and seconds."""

    def key(candidate: Candidate) -> tuple:
        large = chip.platform == "tpu" and candidate.overrides["mesh.fsdp"] > MOST_TPU_GROUP
        need = 0 if candidate.fits else candidate.estimate.memory.total
        return need, large, candidate.seconds

    return key


def _binds(one: Candidate) -> str:
    assert one.estimate.roofline is not None
    return one.estimate.roofline.binds


def _reasons(found: Estimate, chip: Chip, mesh: dict[str, int], near: int) -> str:
    """What speaks for it and against it, in some words."""
    roofline = found.roofline
    assert roofline is not None
    words = [f"{roofline.binds} binds"]
    if chip.platform == "tpu" and mesh["fsdp"] > MOST_TPU_GROUP:
        words.append(f"{mesh['fsdp']} chips in one group gather and scatter in two stages")
    if mesh["stage"] > 1:
        words.append(f"stages wait {found.pipeline.bubble:.0%} of their time")
    num_devices = math.prod(mesh.values())
    if num_devices > near and num_devices // mesh["data"] <= near:
        words.append("only gradients cross the network")
    if mesh["context"] > 1:
        words.append(f"{mesh['context']} devices share each row")
    if mesh["tensor"] > 1 and roofline.binds == "wires":
        words.append("sums of activations fill the wires")
    return "; ".join(words)
