"""What a compiled step sends between devices: each collective, its bytes, its runs, and the mesh axes."""

import re
from typing import NamedTuple

from jax.sharding import Mesh

from flaxmill.train.compilation.hlo_text import (
    Array,
    Computation,
    Instruction,
    Program,
    Site,
    find_sites,
    follow,
    parse_program,
)
from flaxmill.train.compilation.replica_groups import crossed_axes, read_groups, sizes_of

KINDS = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
SEND = "send"
# The scopes that model/layer.py names.
_LAYER = re.compile(r"\b(attention|cross_attention|mlp)_block\b")
# The kind of exchange between slices that a send is a part of, as XLA's runtime for slices calls it.
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


class Collective(NamedTuple):
    """One collective of a compiled step."""

    kind: str
    """all-gather, reduce-scatter, all-reduce, all-to-all, collective-permute, or send: between slices."""
    dtype: str
    shape: tuple[int, ...]
    """Of the largest array, on the side where it is larger."""
    num_bytes: int
    """What it reads or what it writes, whichever is more: of one run, on one device."""
    wire_bytes: int
    """What a device sends in one run, by an algorithm that sends the least."""
    times: int
    """Runs a step."""
    axes: tuple[str, ...]
    """The mesh axes along which it exchanges."""
    across_slices: bool
    inside_layers: bool
    group: int
    """Devices that take part in one exchange."""
    operation: str
    """Where it comes from: JAX's path of named scopes."""
    source_name: str
    """What the compiled program calls it."""
    is_padded: bool = False
    """Whether it sums arrays that are zero but for one part: a gather, at twice the wire of one."""


class _Found(NamedTuple):
    """A collective instruction, where it stands and where it runs."""

    instruction: Instruction
    computation_name: str
    site: Site


def find_collectives(text: str, mesh: Mesh, num_slices: int | None = None) -> list[Collective]:
    """The collectives of an optimised program, in the order of what they send in a step.

    Args:
      num_slices: the parts of the mesh, along its outermost axis, with slow wires between them; None: as
        many as the devices say, which only TPUs do.

    Raises:
      ValueError: the program has a form that is not known: a wrong answer would be worse.
    """
    program = parse_program(text)
    found = _without_repeats(program, _find_instructions(program))
    layers = _find_layers(program, found)
    slices = num_slices or len({getattr(device, "slice_index", 0) for device in mesh.devices.flat})
    collectives = [_describe(program, each, mesh, layers, slices) for each in found]
    collectives = [each for each in collectives if each.group > 1]
    return sorted(collectives, key=lambda each: -each.times * each.wire_bytes)


def _find_instructions(program: Program) -> list[_Found]:
    return [
        _Found(instruction, name, site)
        for name, sites in find_sites(program).items()
        for instruction in program.computations[name].values()
        if _kind_of(instruction) is not None
        for site in sites
    ]


def _kind_of(instruction: Instruction) -> str | None:
    kind = instruction.opcode.removesuffix("-start")
    if kind in KINDS:
        return kind
    crosses = instruction.opcode == "send" and "is_host_transfer=true" in instruction.attributes
    return SEND if crosses and _TRANSFER.search(instruction.attributes) else None


def _without_repeats(program: Program, found: list[_Found]) -> list[_Found]:
    """Each collective once: TPU programs overlap one with arithmetic by repeating it in a chain of fusions,
    from AsyncCollectiveStart to AsyncCollectiveDone. Those between may be in a loop that runs meanwhile."""
    chains = [_chain(each.instruction) for each in found]
    starts = [chain is not None and _starts(program, each) for chain, each in zip(chains, found, strict=True)]
    started = {chain for chain, is_start in zip(chains, starts, strict=True) if is_start}
    kept, seen = [], set()
    for each, chain, is_start in zip(found, chains, starts, strict=True):
        key = chain, each.site.host
        if chain is not None and (key in seen or (chain in started and not is_start)):
            continue
        seen.add(key)
        kept.append(each)
    return kept


def _chain(instruction: Instruction) -> tuple[str, str] | None:
    """The chain that a collective is a part of, and its channel."""
    found = re.search(r'chain_id="(\d+)"', instruction.attributes)
    return (found[1], _channel(instruction)) if found else None


def _starts(program: Program, found: _Found) -> bool:
    """Whether a collective is the first of its chain."""
    beside = program.computations[found.computation_name].values()
    return any('custom_call_target="AsyncCollectiveStart"' in each.attributes for each in beside)


def _channel(instruction: Instruction) -> str:
    found = re.search(r"channel_id=(\d+)", instruction.attributes)
    return found[1] if found else instruction.name


class _Layers(NamedTuple):
    """Where the layers run: bodies of loops, and what the collectives in them look like."""

    hosts: frozenset[str]
    looks: frozenset[tuple]


def _find_layers(program: Program, found: list[_Found]) -> _Layers:
    hosts = frozenset(
        name
        for name, computation in program.computations.items()
        if name != program.entry and any(_LAYER.search(each.op_name) for each in computation.values())
    )
    return _Layers(hosts, frozenset(_look(each.instruction) for each in found if each.site.host in hosts))


def _look(instruction: Instruction) -> tuple:
    return instruction.opcode, *instruction.arrays


def _is_inside(each: _Found, program: Program, layers: _Layers) -> bool:
    if each.instruction.op_name:
        return _LAYER.search(each.instruction.op_name) is not None
    # Programs for slices name few collectives, and may run the first or last layer outside the loop.
    is_peeled = each.site.host == program.entry and _look(each.instruction) in layers.looks
    return is_peeled or each.site.host in layers.hosts


def _describe(program: Program, each: _Found, mesh: Mesh, layers: _Layers, num_slices: int) -> Collective:
    instruction = each.instruction
    computation = program.computations[each.computation_name]
    kind = _kind_of(instruction)
    assert kind is not None
    operands, results = _operands(computation, instruction), _results(instruction, kind)
    axes, group, across = _reach(instruction, kind, mesh, num_slices)
    if kind == "all-reduce" and re.match(r"all-reduce-scatter", each.computation_name):
        kind = "reduce-scatter"  # a TPU's: the sum and the slice that is kept are one fusion
    larger = max(operands, results, key=lambda arrays: sum(array.num_bytes for array in arrays))
    num_bytes = sum(array.num_bytes for array in larger)
    main = max(larger, key=lambda array: array.num_bytes, default=Array("pred", ()))
    return Collective(
        kind=kind,
        dtype=main.dtype,
        shape=main.shape,
        num_bytes=num_bytes,
        wire_bytes=_wire_bytes(kind, num_bytes, group, instruction),
        times=each.site.times,
        axes=axes,
        across_slices=across,
        inside_layers=_is_inside(each, program, layers),
        group=group,
        operation=instruction.op_name,
        source_name=instruction.name,
        is_padded=kind == "all-reduce" and _is_padded(program, computation, instruction),
    )


def _reach(
    instruction: Instruction, kind: str, mesh: Mesh, num_slices: int
) -> tuple[tuple[str, ...], int, bool]:
    """The mesh axes that it crosses, the devices of a group, and whether groups span slices."""
    if kind == SEND:
        return ("data",), num_slices, True
    groups = read_groups(instruction.attributes, mesh.size)
    group = sizes_of(groups)
    if kind == "collective-permute":
        groups = tuple(pair for pair in groups if pair[0] != pair[1])
        group = 2 if groups else 1
    across = any(len({member * num_slices // mesh.size for member in members}) > 1 for members in groups)
    return crossed_axes(groups, dict(mesh.shape)), group, across


def _operands(computation: Computation, instruction: Instruction) -> tuple[Array, ...]:
    arrays: list[Array] = []
    for name in instruction.operands:
        if name in computation:
            made = computation[name]
            arrays += made.arrays if instruction.opcode != "send" or made.opcode != "after-all" else ()
    return tuple(arrays)


def _results(instruction: Instruction, kind: str) -> tuple[Array, ...]:
    """The arrays that it computes. The tuple of a -start instruction holds the operands first."""
    arrays = tuple(array for array in instruction.arrays if array.shape or array.dtype not in ("u32", "s32"))
    if kind == SEND:
        return arrays[:1]
    if instruction.opcode.endswith("-start") and kind not in ("all-reduce", "collective-broadcast"):
        num_operands = len(instruction.operands)
        return arrays[num_operands:] or arrays
    return arrays


def _wire_bytes(kind: str, num_bytes: int, group: int, instruction: Instruction) -> int:
    """Bytes that a device sends: by rings, or all to all, which send the least."""
    others = (group - 1) / group
    if kind == SEND:
        transfer = _TRANSFER.search(instruction.attributes)
        return int(num_bytes * (2 * others if transfer and transfer[1] == "ALL_REDUCE" else 1))
    if kind == "collective-permute":
        return num_bytes
    return int(num_bytes * others * (2 if kind == "all-reduce" else 1))


def _is_padded(program: Program, computation: Computation, all_reduce: Instruction) -> bool:
    """Whether one of the arrays that it sums holds this device's part and is zero elsewhere: TPU programs
    gather so in groups of 64 devices and more."""
    return any(_is_part_in_zeros(program, computation, name) for name in all_reduce.operands)


def _is_part_in_zeros(program: Program, computation: Computation, name: str) -> bool:
    made = follow(computation, name)
    if made is None:
        return False
    if made.opcode == "dynamic-update-slice":
        return _is_zeros(computation, made.operands[0])
    called = re.search(r"calls=%?([\w.\-]+)", made.attributes) if made.opcode == "fusion" else None
    fused = program.computations.get(called[1], {}) if called else {}
    return any(
        _is_zeros(fused, target) or _is_zeros(computation, _given(fused, made, target))
        for target in (each.operands[0] for each in fused.values() if each.opcode == "dynamic-update-slice")
    )


def _given(fused: Computation, fusion: Instruction, name: str) -> str:
    """What a fusion is given in place of one of its parameters."""
    parameter = follow(fused, name)
    if parameter is None or parameter.opcode != "parameter":
        return ""
    number = int(parameter.operands[0])
    return fusion.operands[number] if number < len(fusion.operands) else ""


def _is_zeros(computation: Computation, name: str) -> bool:
    made = follow(computation, name)
    if made is not None and made.opcode == "broadcast":
        made = follow(computation, made.operands[0])
    return made is not None and made.opcode == "constant" and made.operands[:1] in (("0",), ("-0",))
