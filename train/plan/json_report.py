"""A plan as JSON: bytes, seconds and counts as plain numbers."""

from typing import Any

from flaxmill.train.plan.report import KINDS, Plan
from flaxmill.train.plan.roofline import Roofline


def json_of(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON values."""
    chip, memory, roofline = plan.chip, plan.memory, plan.roofline
    limits = {"total": memory.total, "limit": memory.limit, "host": memory.host.total}
    return {
        "experiment": plan.name,
        "topology": plan.topology,
        "description": plan.description,
        "mesh": plan.mesh,
        "fits": memory.fits,
        "memory": {kind: getattr(memory, kind) for kind in KINDS} | limits,
        "host_memory": memory.host._asdict() | {"devices_a_host": plan.devices_a_host},
        "collectives": [_plain(each._asdict()) for each in plan.collectives],
        "warnings": list(plan.warnings),
        "pipeline": plan.pipeline._asdict(),
        "bubble": plan.pipeline.bubble,
        "flops": {"full": plan.flops.full, "causal": plan.flops.causal, "hardware": plan.hardware_flops},
        "roofline": None if roofline is None else roofline_json(roofline),
        "chip": None
        if chip is None
        else {"name": chip.name, "source": chip.source, "unchecked": [*chip.unchecked]},
        "cost": plan.cost.json(None if roofline is None else roofline.tokens_per_second),
        "checkpoint_bytes": plan.checkpoint_bytes,
        "is_compiled": plan.is_compiled,
        "compile_cpu_seconds": plan.compile_cpu_seconds,
        "replaced": list(plan.replaced),
        "proposals": [
            {"overrides": one.overrides, "total": one.estimate.memory.total, "reason": one.reason}
            for one in plan.proposals
        ],
        "effects": [effect._asdict() for effect in plan.effects],
        "candidates": [
            {"overrides": one.overrides, "fits": one.fits, "total": one.estimate.memory.total}
            | {"seconds": one.seconds, "reasons": one.reasons}
            for one in plan.candidates
        ],
    }


def roofline_json(roofline: Roofline) -> dict[str, Any]:
    seconds = {f"{name}_seconds": value for name, value in roofline.resources.items()}
    rates = {"tokens_per_second": roofline.tokens_per_second}
    return (
        seconds
        | rates
        | {"binds": roofline.binds, "seconds": roofline.seconds, "mfu": roofline.mfu._asdict()}
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
