"""Plans whose steps are compiled: of an experiment, of what would make it fit, and of the best layouts."""

from typing import NamedTuple

from flaxmill.sharding.hardware.topologies import Topology
from flaxmill.sharding.mesh import describe_free_axis
from flaxmill.train.compilation.collectives import Collective, find_collectives
from flaxmill.train.compilation.compiled_step import (
    CompiledStep,
    TooLargeError,
    compile_step,
    mesh_on,
    resolve_without_data,
)
from flaxmill.train.experiment import Experiment
from flaxmill.train.plan.analytic import estimate
from flaxmill.train.plan.assemble import make_plan
from flaxmill.train.plan.findings import find_warnings
from flaxmill.train.plan.memory import DeviceMemory, device_memory, in_words, largest_buffer
from flaxmill.train.plan.proposals import apply_overrides, factor_of
from flaxmill.train.plan.report import Plan
from flaxmill.train.plan.search import Candidate, choose, list_layouts, ranking
from flaxmill.train.run.mesh_fit import check_mesh


class _Compiled(NamedTuple):
    """What a compilation says of an experiment on a topology."""

    experiment: Experiment
    mesh_shape: dict[str, int]
    memory: DeviceMemory
    collectives: list[Collective] | None
    """None: the compiler gave up."""
    warnings: list[str]
    notes: list[str]
    replaced: tuple[str, ...]
    cpu_seconds: float


def make_compiled_plan(experiment: Experiment, topology: Topology) -> Plan:
    """The plan of an experiment as it is.

    Raises:
      ValueError: as `compile_step` does.
    """
    return _plan_of(_compile(experiment, topology), topology)


def with_checked_proposal(plan: Plan, experiment: Experiment, topology: Topology) -> Plan:
    """The plan, the first of whose proposals says what the compiler makes of it."""
    if not plan.proposals:
        return plan
    first, *others = plan.proposals
    memory = _compile(apply_overrides(experiment, first.overrides), topology).memory
    checked = first._replace(reason=f"{_verdict(memory)}; {first.reason}")
    return plan._replace(proposals=[checked, *others])


def compile_best(plan: Plan, experiment: Experiment, topology: Topology, most: int) -> Plan:
    """The plan with layouts ranked by the estimate, the best of which are compiled until `most` of them fit.

    Where a step takes more than its estimate, other layouts with the same policy are taken to do so too. No
    more than twice as many are compiled.
    """
    chip, slices, near = topology.chip, topology.num_slices, topology.link_domain
    assert chip is not None
    resolved = resolve_without_data(experiment)
    layouts = list_layouts(resolved, chip, len(topology.devices), slices, near)
    planned = estimate(resolved, plan.mesh, chip, slices, near)
    factors = {resolved.model.remat: factor_of(planned, plan.memory.total)}
    compiled: dict[str, Candidate] = {}
    while sum(one.fits for one in compiled.values()) < most and len(compiled) < 2 * most:
        ranked = choose(layouts, chip, len(layouts), factors)
        best = next((one for one in ranked if one.fits and str(one.overrides) not in compiled), None)
        if best is None:
            break
        memory = _compile(apply_overrides(experiment, best.overrides), topology).memory
        compiled[str(best.overrides)] = _checked(best, memory)
        remat = best.overrides["model.remat"]
        factors[remat] = max(factors.get(remat, 1.0), factor_of(best.estimate, memory.total))
    others = [one for one in choose(layouts, chip, factors=factors) if str(one.overrides) not in compiled]
    return plan._replace(candidates=sorted([*compiled.values(), *others], key=ranking(chip)))


def _checked(candidate: Candidate, memory: DeviceMemory) -> Candidate:
    return candidate._replace(fits=memory.fits, reasons=f"{_verdict(memory)}; {candidate.reasons}")


def _verdict(memory: DeviceMemory) -> str:
    return f"compiled: {in_words(memory.total)}, {'fits' if memory.fits else 'does not fit'}"


def _plan_of(compiled: _Compiled, topology: Topology) -> Plan:
    return make_plan(
        compiled.experiment,
        compiled.mesh_shape,
        topology.chip,
        topology=topology.name,
        description="; ".join([topology.description, *compiled.notes]),
        memory=compiled.memory,
        collectives=compiled.collectives,
        warnings=compiled.warnings,
        compile_cpu_seconds=compiled.cpu_seconds,
        replaced=compiled.replaced,
        num_slices=topology.num_slices,
        domain=topology.link_domain,
        devices_a_host=topology.devices_a_host,
    )


def _compile(experiment: Experiment, topology: Topology) -> _Compiled:
    try:
        step = compile_step(experiment, topology)
    except TooLargeError as error:
        return _too_large(experiment, topology, error)
    collectives = find_collectives(step.text, step.mesh, topology.num_slices)
    return _Compiled(
        step.experiment,
        dict(step.mesh.shape),
        device_memory(step, topology.chip),
        collectives,
        find_warnings(collectives, step.experiment, step.mesh),
        _notes(experiment, step),
        step.replaced,
        step.compile_cpu_seconds,
    )


def _notes(experiment: Experiment, step: CompiledStep) -> list[str]:
    """What is worth a word about the mesh, and about the largest array."""
    free = describe_free_axis(experiment.mesh, step.mesh)
    largest = largest_buffer(step.text)
    size = in_words(largest.array.num_bytes)
    notes = ([free] if free else []) + [f"the largest array is {largest}, {size}"]
    if experiment.model.num_experts is None:
        return notes
    return [*notes, "experts are counted as if tokens chose all of them evenly, which no plan can know"]


def _too_large(experiment: Experiment, topology: Topology, error: TooLargeError) -> _Compiled:
    """What is known of a step for which the compiler found no way to fit it."""
    resolved = resolve_without_data(experiment)
    mesh = mesh_on(resolved, topology)
    check_mesh(resolved, mesh)
    found = estimate(
        resolved, dict(mesh.shape), topology.chip, topology.num_slices, topology.link_domain
    ).memory
    known = found.parameters + found.optimizer + found.gradients
    # What the compiler could not place may be counted without the state.
    total = max(error.needed, known)
    kept = min(found.activations, total - known)
    memory = DeviceMemory(*found[:3], kept, total - known - kept, total, error.limit, found.host)
    line = f"the compiler gave up: it needs {in_words(error.needed)} of {in_words(error.limit)}"
    return _Compiled(resolved, dict(mesh.shape), memory, None, [], [line], (), 0.0)
