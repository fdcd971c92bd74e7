"""A plan, and how it reads as text for a terminal."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from flaxmill.sharding.hardware.chips import Chip
from flaxmill.sharding.mesh import describe_shape
from flaxmill.sharding.schedule import Pipeline
from flaxmill.train.compilation.collectives import Collective
from flaxmill.train.metrics.flops import StepFlops
from flaxmill.train.plan.cost import Cost, published_runs
from flaxmill.train.plan.effects import Effect
from flaxmill.train.plan.memory import in_words
from flaxmill.train.plan.proposals import Proposal
from flaxmill.train.plan.roofline import Roofline
from flaxmill.train.plan.search import Candidate
from flaxmill.train.plan.weights import HostMemory
from flaxmill.train.run.mesh_fit import describe_schedule

GIB, MIB = 2**30, 2**20
KINDS = ("parameters", "optimizer", "gradients", "activations", "temporary")
MEANINGS = {
    "parameters": "weights, in float32",
    "optimizer": "state of the optimizer",
    "gradients": "of the weights",
    "activations": "kept for the backward pass",
    "temporary": "what a layer or the loss needs while it runs",
}


RARE = ("stage", "expert", "context")
"""Axes that few meshes have."""
GAVE_UP = "The compiler gave up. Activations, and the times below, are the estimate's; temporary is the rest."


class Memory(Protocol):
    """Bytes of one device, by kind."""

    @property
    def parameters(self) -> int: ...
    @property
    def optimizer(self) -> int: ...
    @property
    def gradients(self) -> int: ...
    @property
    def activations(self) -> int: ...
    @property
    def temporary(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def fits(self) -> bool: ...
    @property
    def host(self) -> HostMemory: ...


class Plan(NamedTuple):
    """What one step of an experiment takes on a topology, and what the whole run costs."""

    name: str
    """The experiment's."""
    topology: str
    description: str
    """What the topology is made of, in words."""
    chip: Chip | None
    """None: a CPU."""
    mesh: dict[str, int]
    memory: Memory
    collectives: Sequence[Collective]
    """As the compiled program has them."""
    warnings: Sequence[str]
    flops: StepFlops
    """Of the model in one step, on all devices."""
    hardware_flops: float
    """With what is computed again, and what waiting stages compute."""
    cost: Cost
    roofline: Roofline | None
    compile_cpu_seconds: float
    checkpoint_bytes: int
    replaced: Sequence[str] = ()
    """What the compiled program has in place of what training runs."""
    proposals: Sequence[Proposal] = ()
    candidates: Sequence[Candidate] = ()
    effects: Sequence[Effect] = ()
    devices_a_host: int | None = None
    """None: nobody knows."""
    is_compiled: bool = True
    """False: the compiler gave up, so that activations and times are the estimate's."""
    pipeline: Pipeline = Pipeline()


def verdict_of(plan: Plan) -> str:
    """Whether it fits, in one line."""
    memory = plan.memory
    where = f"{plan.name} on {plan.topology} ({describe_shape(plan.mesh)})"
    if memory.limit is None:
        return f"{where} takes {_gib(memory.total)} GiB a device; the memory of this machine is not known"
    share = f"{_gib(memory.total)} of {_gib(memory.limit)} GiB a device ({memory.total / memory.limit:.0%})"
    return f"{where} {'fits' if memory.fits else 'does not fit'}: {share}"


def text_of(plan: Plan) -> str:
    """The plan for a terminal."""
    lines = [verdict_of(plan), plan.description, ""]
    sections = _memory, _proposals, _collectives, _warnings, _work, _roofline, _cost, _effects, _candidates
    for section in sections:
        lines += section(plan)
    return "\n".join(lines).rstrip() + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns: numbers end at the same place, words begin there."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    right = [
        all(row[column][:1].isdigit() or not row[column] for row in rows) for column in range(len(header))
    ]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, right, strict=True)
        return "  " + "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in cells).rstrip()

    return [line(header), *map(line, rows)]


def _memory(plan: Plan) -> Iterator[str]:
    yield "Memory a device"
    rows = [
        (kind, f"{getattr(plan.memory, kind) / GIB:.3f} GiB", MEANINGS[kind], _bar(plan, kind))
        for kind in KINDS
    ]
    rows.append(("all", f"{_gib(plan.memory.total)} GiB", "", ""))
    if plan.memory.host.total:
        rows.append(("on the host", f"{plan.memory.host.total / GIB:.3f} GiB", describe_host(plan), ""))
    yield from table(("kind", "bytes", "what", ""), rows)
    if not plan.is_compiled:
        yield f"  {GAVE_UP}"
    for line in plan.replaced:
        yield f"  Replaced: {line}"
    yield ""


def describe_host(plan: Plan) -> str:
    """What a host keeps for a device, and for all of its devices."""
    host = plan.memory.host
    kept = [name for name, size in host._asdict().items() if size]
    words = f"offloaded {' and '.join(kept)}, beside the above"
    if plan.devices_a_host is None:
        return words
    whole = plan.devices_a_host * host.total
    return f"{words}; {_gib(whole)} GiB for a host of {plan.devices_a_host} devices"


def _bar(plan: Plan, kind: str) -> str:
    whole = max(plan.memory.limit or 0, plan.memory.total)
    return "#" * round(30 * getattr(plan.memory, kind) / whole)


def _proposals(plan: Plan) -> Iterator[str]:
    if plan.memory.fits:
        return
    yield "What would make it fit, the cheapest first (by the estimate)"
    for proposal in plan.proposals:
        need = f"{_gib(proposal.estimate.memory.total)} GiB"
        yield f"  {as_flags(proposal.overrides)}"
        yield f"    {need}: {proposal.reason}"
    if not plan.proposals:
        yield "  nothing that was tried: use more devices, or a smaller model"
    yield ""


def _collectives(plan: Plan) -> Iterator[str]:
    if not plan.collectives:
        return
    yield "Collectives of a step, of one device"
    rows = []
    for (kind, dtype, axes, where), rest in merge_collectives(plan.collectives).items():
        sites, times, largest, wire = rest
        rows.append((kind, dtype, axes, where, str(sites), f"{times:,}", in_words(largest), in_words(wire)))
    yield from table(("kind", "dtype", "axes", "where", "sites", "times", "largest", "sent"), rows)
    yield ""


def merge_collectives(collectives: Sequence[Collective]) -> dict[tuple[str, ...], tuple[int, int, int, int]]:
    """Collectives alike, by kind, dtype, axes and place: sites, runs, bytes of the largest, bytes sent."""
    merged: dict[tuple[str, ...], tuple[int, int, int, int]] = {}
    for each in collectives:
        where = "across slices" if each.across_slices else "layers" if each.inside_layers else "ends"
        key = each.kind, each.dtype, " ".join(each.axes), where
        sites, times, largest, wire = merged.get(key, (0, 0, 0, 0))
        sent = each.times * each.wire_bytes
        merged[key] = sites + 1, times + each.times, max(largest, each.num_bytes), wire + sent
    return dict(sorted(merged.items(), key=lambda item: -item[1][3]))


def _warnings(plan: Plan) -> Iterator[str]:
    if plan.warnings:
        yield "Warnings"
        yield from (f"  {line}" for line in plan.warnings)
        yield ""


def _work(plan: Plan) -> Iterator[str]:
    yield "Arithmetic of a step, all devices"
    rows = [
        ("model", f"{plan.flops.full:.4e} FLOPs", "attention counted over all pairs: MFU as most publish it"),
        ("model", f"{plan.flops.causal:.4e} FLOPs", "causal attention counted over the half that is seen"),
        ("hardware", f"{plan.hardware_flops:.4e} FLOPs", "with what is computed again in the backward pass"),
    ]
    yield from table(("", "", ""), rows)[1:]
    if (words := describe_schedule(plan.pipeline)) is not None:
        yield f"  {words[0].upper()}{words[1:]}, and computes then on rows that do not count."
    yield ""


def _roofline(plan: Plan) -> Iterator[str]:
    roofline, chip = plan.roofline, plan.chip
    if roofline is None or chip is None:
        return
    yield f"The least time of a step: {roofline.seconds:.3f} s, bound by {roofline.binds}"
    peaks = {
        "compute": ("peak_flops", f"{chip.peak_flops / 1e12:,.0f} TFLOP/s"),
        "memory": ("memory_bandwidth", f"{chip.memory_bandwidth / 1e9:,.0f} GB/s"),
        "wires": ("link_bandwidth", f"{chip.link_bandwidth / 2e9:,.0f} GB/s each way"),
        "network": ("network_bandwidth", f"{chip.network_bandwidth / 1e9:,.1f} GB/s each way"),
    }
    rows = [
        (name, f"{roofline.resources[name]:.3f} s", peak + (" (?)" if field in chip.unchecked else ""))
        for name, (field, peak) in peaks.items()
    ]
    yield from table(("", "needs", "at the peak of a device"), rows)
    yield f"  Peaks: {chip.source}"
    if chip.unchecked:
        yield "  (?) No page of the maker could be found that gives this figure."
    mfu = roofline.mfu
    yield f"  MFU at this ceiling: {mfu.causal:.1%} (causal attention halved), {mfu.full:.1%} (in full)"
    yield ""


def _cost(plan: Plan) -> Iterator[str]:
    cost = plan.cost
    yield f"The run: {cost.steps:,} steps of {cost.num_tokens:,} tokens, {cost.total_tokens:.3e} in all"
    if plan.roofline is not None:
        rows = [
            (what, f"{rate * 86_400:.3e}", f"{days:,.2f}", f"{hours:,.0f}")
            for what, rate, days, hours in cost.rows(plan.roofline.tokens_per_second)
        ]
        yield from table(("if it runs", "tokens a day", "days", "device-hours"), rows)
        yield "  No run reaches the ceiling. The other rows are shares of it that two published runs reached:"
        for run in published_runs():
            yield f"  {run.share:.2f}: {run.what}"
            yield f"        {run.source}"
    yield f"  A checkpoint takes {plan.checkpoint_bytes / GIB:,.2f} GiB."
    if plan.is_compiled:
        yield f"  Compiling took {plan.compile_cpu_seconds:.1f} CPU seconds."
    yield ""


def _effects(plan: Plan) -> Iterator[str]:
    if not plan.effects:
        return
    yield "Settings and what they would change (by the estimate; * as planned)"
    rows = [effect_row(effect) for effect in plan.effects]
    yield from table(("flag", "memory", "a device sends", "least time"), rows)
    yield ""


def effect_row(effect: Effect) -> tuple[str, str, str, str]:
    """A setting as cells of a table."""
    flag = as_flags({effect.field: effect.value}) + (" *" if effect.is_set else "")
    seconds = "" if effect.seconds is None else f"{effect.seconds:.3f} s"
    return flag, f"{_gib(effect.memory_bytes)} GiB", f"{effect.sent_bytes / GIB:.3f} GiB", seconds


def _candidates(plan: Plan) -> Iterator[str]:
    if not plan.candidates:
        return
    yield "Layouts, the best first (memory and seconds by the estimate)"
    yield from table(*layouts_table(plan))
    yield "  They are ranked by the least time, with a tenth of what is hidden behind it and 2% for each"
    yield "  doubling of the microbatches."
    yield f"  Take the first with {layout_flags(plan)}"
    yield ""


def layouts_table(plan: Plan) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: the layouts' numbers, their settings by the last part of the names, and the rest."""
    settings = [
        name
        for name in plan.candidates[0].overrides
        if any(name in _told(one.overrides, plan) for one in plan.candidates)
    ]
    names = (name.rpartition(".")[2].removeprefix("pipeline_") for name in settings)
    header = ("", *names, "", "memory", "least time", "ranked by", "why")
    return header, [(str(n), *_layout_row(one, settings, plan)) for n, one in enumerate(plan.candidates, 1)]


def _layout_row(one: Candidate, settings: list[str], plan: Plan) -> Iterator[str]:
    told = _told(one.overrides, plan)
    yield from (
        str(told.get(name, one.overrides[name] if name.startswith("mesh.") else "")) for name in settings
    )
    yield "fits" if one.fits else "too large"
    yield f"{_gib(one.estimate.memory.total)} GiB"
    yield "" if one.estimate.roofline is None else f"{one.estimate.roofline.seconds:.3f} s"
    yield from (f"{one.seconds:.3f} s", one.reasons)


def layout_flags(plan: Plan) -> str:
    """The first layout as it is typed."""
    return as_flags(_told(plan.candidates[0].overrides, plan))


def _told(overrides: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Without what need not be said: axes of one device that are so in the plan too, and the schedule of no
    pipeline."""
    has_stages = overrides["mesh.stage"] > 1
    told = {}
    for name, value in overrides.items():
        axis = name.removeprefix("mesh.")
        needed = value > 1 or plan.mesh.get(axis, 1) > 1 if axis in RARE else True
        if has_stages if name.startswith("pipeline_") else needed:
            told[name] = value
    return told


def as_flags(overrides: dict[str, Any]) -> str:
    """Overrides as they are typed."""
    return " ".join(_as_flag(name.replace("_", "-"), value) for name, value in overrides.items())


def _as_flag(name: str, value: Any) -> str:
    if not isinstance(value, bool):
        return f"--{name} {value}"
    part, dot, field = name.rpartition(".")
    return f"--{part}{dot}{'' if value else 'no-'}{field}"


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f}" if num_bytes >= GIB else f"{num_bytes / GIB:.3f}"
