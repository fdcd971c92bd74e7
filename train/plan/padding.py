"""Gathers that a compiler does as a sum: each device writes its part into zeros, and all parts are added.

It sends twice what a gather does. TPU programs do so in groups of 64 devices and more.
"""

import re

from flaxmill.train.plan.hlo_text import Computation, Instruction, Program, follow


def is_padded_gather(program: Program, computation: Computation, all_reduce: Instruction) -> bool:
    """Whether one of the arrays that it sums is zero outside this device's part."""
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
