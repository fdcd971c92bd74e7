"""Puts a compiled step and the formulas together to a plan."""

import math
from collections.abc import Mapping, Sequence

from flaxmill.sharding.hardware.chips import Chip
from flaxmill.train.compilation.collectives import Collective
from flaxmill.train.experiment import Experiment
from flaxmill.train.plan.analytic import Estimate, estimate
from flaxmill.train.plan.cost import Cost
from flaxmill.train.plan.effects import list_effects
from flaxmill.train.plan.proposals import Proposal, propose
from flaxmill.train.plan.report import Memory, Plan
from flaxmill.train.plan.roofline import Roofline, make_roofline
from flaxmill.train.plan.search import Candidate
from flaxmill.train.plan.weights import state_bytes, without_remat

ONE_DEVICE = (("data", 1), ("fsdp", 1), ("tensor", 1))


def make_plan(
    experiment: Experiment,
    mesh_shape: Mapping[str, int],
    chip: Chip | None,
    *,
    topology: str,
    description: str,
    memory: Memory,
    collectives: Sequence[Collective] | None,
    warnings: Sequence[str] = (),
    compile_cpu_seconds: float = 0.0,
    replaced: Sequence[str] = (),
    candidates: Sequence[Candidate] = (),
    num_slices: int = 1,
    domain: int | None = None,
    devices_a_host: int | None = None,
    with_proposals: bool = True,
) -> Plan:
    """The plan of a resolved experiment whose step was compiled.

    Args:
      collectives: None: the compiler gave up, and the estimate's are taken for the times.
      domain: devices that share fast links; None: what the chip says, or those of a slice.
      with_proposals: look for what would make it fit, where it does not.
    """
    found = estimate(experiment, mesh_shape, chip, num_slices, domain)
    proposals: list[Proposal] = []
    if chip is not None and with_proposals and not memory.fits:
        proposals = propose(experiment, mesh_shape, chip, num_slices, domain, compiled=memory.total)
    num_devices = math.prod(mesh_shape.values())
    return Plan(
        name=experiment.name,
        topology=topology,
        description=description,
        chip=chip,
        mesh=dict(mesh_shape),
        memory=memory,
        collectives=collectives or (),
        warnings=warnings,
        flops=found.flops,
        hardware_flops=found.hardware_flops,
        cost=Cost(experiment.steps, found.num_tokens, num_devices),
        roofline=_roofline(found, mesh_shape, chip, collectives, num_slices, domain),
        compile_cpu_seconds=compile_cpu_seconds,
        checkpoint_bytes=checkpoint_bytes(experiment),
        replaced=replaced,
        proposals=proposals,
        candidates=candidates,
        effects=list_effects(experiment, mesh_shape, chip, num_slices, domain),
        devices_a_host=devices_a_host,
        is_compiled=collectives is not None,
        pipeline=found.pipeline,
    )


def checkpoint_bytes(experiment: Experiment) -> int:
    """Bytes of parameters and optimizer state on disk."""
    state = state_bytes(without_remat(experiment.model), experiment.optimizer, ONE_DEVICE)
    return state.parameters + state.optimizer + state.on_host


def _roofline(
    found: Estimate,
    mesh_shape: Mapping[str, int],
    chip: Chip | None,
    collectives: Sequence[Collective] | None,
    num_slices: int,
    domain: int | None,
) -> Roofline | None:
    """Of what the compiled program sends, in place of what the design says, where there is a program."""
    if chip is None:
        return None
    near = domain or chip.link_domain or math.prod(mesh_shape.values()) // num_slices
    return make_roofline(
        found.flops,
        found.hardware_flops,
        found.moved_bytes,
        found.collectives if collectives is None else collectives,
        chip,
        mesh_shape,
        found.num_tokens,
        near,
    )
