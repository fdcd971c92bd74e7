"""What the kernels of a compiled program do: their arithmetic, the bytes that they move, and their kind.

A kernel is an instruction of a schedule: a fusion, or a lone operation. Its bytes are those of its operands
and results; where it only takes slices of an operand, or writes a slice of a result, those of the slices.
What a TPU's program fetches ahead into its vector memory is counted once, by the kernel that reads it.

step_programs.py uses it; by itself it measures nothing.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from flaxmill.train.compilation.hlo_text import (
    Computation,
    Instruction,
    Program,
    called_by,
    find_sites,
    follow,
    parse_program,
)

KINDS = {
    "products": "matrix products, with what is fused into them",
    "attention": "the attention kernel, or what stands in its place",
    "pointwise": "norms, activations, sums, the update",
    "copies": "other layouts of the same numbers",
    "stacks": "layers' arrays taken from stacks, or put there; arrays filled with a number",
    "collectives": "what is sent",
}
_NO_KERNEL = {
    *(
        "parameter",
        "constant",
        "bitcast",
        "tuple",
        "get-tuple-element",
        "while",
        "conditional",
        "call",
        "iota",
    ),
    *("after-all", "opt-barrier", "partition-id", "replica-id", "copy-start", "slice-start"),
}
_FREE_TARGETS = ("ConcatBitcast", "AllocateBuffer", "AssumeGatherIndicesInBound")
_STACKING = {"dynamic-slice", "dynamic-update-slice", "slice"}
_MOVING = _STACKING | {
    *("parameter", "constant", "bitcast", "tuple", "get-tuple-element", "iota", "broadcast"),
    *("copy", "transpose", "reshape", "concatenate", "pad", "reverse"),
}
# One operation for each element of the result.
_ARITHMETIC = {
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "remainder", "negate", "abs"),
    *("exponential", "exponential-minus-one", "log", "log-plus-one", "rsqrt", "sqrt", "cbrt", "tanh", "erf"),
    *(
        "logistic",
        "sine",
        "cosine",
        "compare",
        "select",
        "clamp",
        "floor",
        "ceil",
        "sign",
        "and",
        "or",
        "xor",
    ),
    *("not", "shift-left", "shift-right-logical", "shift-right-arithmetic"),
}
_ELEMENTWISE = _ARITHMETIC | {"bitcast", "convert"}
_COLLECTIVE = re.compile(r"all-|reduce-scatter|collective-|send|recv|ragged-all-to-all")
# The scope of model/layers/attention.py, around a kernel or the operations in its place.
_ATTENTION = re.compile(r"(?:^|/)attention/")
_SPLASH_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dkv": 4, "splash_mha_dq": 3}


class Kernel(NamedTuple):
    """One instruction of a schedule, and what one run of it takes on one device."""

    name: str
    kind: str
    """One of KINDS."""
    operation: str
    """JAX's path of named scopes."""
    host: str
    """The computation in whose schedule it stands."""
    times: int
    """Runs a step."""
    product_flops: float
    """Of a splash kernel all pairs of places count, though it skips those that no query sees."""
    other_flops: float
    read: dict[str, int]
    """Bytes of each operand, by the instruction of the same computation that made it."""
    written: int
    """Bytes."""
    cycles: int | None
    """The compiler's own estimate, where it gives one: TPU's does."""
    blocks: tuple[int, ...] = ()
    """Sizes of the blocks of a splash kernel."""

    @property
    def num_bytes(self) -> int:
        return sum(self.read.values()) + self.written


def find_kernels(text: str) -> list[Kernel]:
    """The kernels of an optimised program.

    Raises:
      ValueError: the program has a loop that does not say how often it runs.
    """
    program = parse_program(text)
    kernels = [
        _describe(program, name, instruction, site.times)
        for name, sites in find_sites(program).items()
        for site in sites
        if site.host == name
        for instruction in program.computations[name].values()
        if _is_kernel(instruction)
    ]
    return _with_nameless(kernels)


def product_flops(computation: Computation, instruction: Instruction) -> float:
    """FLOPs of a dot or a convolution, padding left out; of another operation 0."""
    if instruction.opcode not in ("dot", "convolution"):
        return 0.0
    x, kernel = (computation[name].arrays[0].shape for name in instruction.operands[:2])
    out = instruction.arrays[0].shape
    if instruction.opcode == "dot":
        found = re.search(r"\blhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        contracted = found[1].split(",") if found and found[1] else []
        return 2.0 * math.prod(out) * math.prod(x[int(dim)] for dim in contracted)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    assert labels is not None, instruction.name
    shapes = zip(labels.groups(), (x, kernel, out), strict=True)
    of_x, of_kernel, of_out = (dict(zip(names, shape, strict=True)) for names, shape in shapes)
    spatial = [dim for dim in of_out if dim.isdigit()]
    taps = math.prod(_taps(instruction, int(dim), of_x[dim], of_out[dim]) for dim in spatial)
    return 2.0 * taps * of_out["b"] * of_out["f"] * of_kernel["i"]


def _taps(instruction: Instruction, dim: int, num_inputs: int, num_outputs: int) -> int:
    """How many pairs of an output and a place of the window meet an input, along one dimension."""
    size, stride = int(_window(instruction, "size", dim)), int(_window(instruction, "stride", dim))
    spread, apart = int(_window(instruction, "lhs_dilate", dim)), int(_window(instruction, "rhs_dilate", dim))
    low = int(_window(instruction, "pad", dim, "0_0").partition("_")[0])
    places = (out * stride + tap * apart - low for out in range(num_outputs) for tap in range(size))
    return sum(0 <= place <= (num_inputs - 1) * spread and place % spread == 0 for place in places)


def _window(instruction: Instruction, field: str, dim: int, default: str = "1") -> str:
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    found = re.search(rf"\b{field}=(\S+)", window[1]) if window else None
    return found[1].split("x")[dim] if found else default


def _is_kernel(instruction: Instruction) -> bool:
    is_free = any(f'custom_call_target="{name}"' in instruction.attributes for name in _FREE_TARGETS)
    is_end = instruction.opcode.endswith(("-done", "-update"))
    return instruction.opcode not in _NO_KERNEL and not is_end and not is_free


def _describe(program: Program, host: str, instruction: Instruction, times: int) -> Kernel:
    computation = program.computations[host]
    inside = list(_inside(program, computation, instruction))
    splash = next((name for name in _SPLASH_PRODUCTS if instruction.name.startswith(name)), None)
    products = sum(product_flops(*each) for each in inside)
    if splash is not None:
        products = _SPLASH_PRODUCTS[splash] * _splash_product(computation, instruction)
    cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
    named = (each.op_name for _, each in inside if each.op_name)
    operation = "attention/" if splash is not None else instruction.op_name or next(named, "")
    read, written = _traffic(program, computation, instruction)
    return Kernel(
        name=instruction.name,
        kind=_kind(inside, operation, products),
        operation=operation,
        host=host,
        times=times,
        product_flops=products,
        other_flops=sum(_other_flops(*each) for each in inside),
        read=read,
        written=written,
        cycles=int(cycles[1]) if cycles else None,
        blocks=tuple(
            sorted({int(size) for size in re.findall(r'block_\w+\\*": (\d+)', instruction.attributes)})
        ),
    )


def _inside(
    program: Program, computation: Computation, instruction: Instruction
) -> Iterator[tuple[Computation, Instruction]]:
    """The instruction, or all that a fusion or an asynchronous operation runs, each with its computation."""
    called = [name for name, _ in called_by(instruction) if name in program.computations]
    if not called:
        yield computation, instruction
    for name in called:
        for each in program.computations[name].values():
            yield from _inside(program, program.computations[name], each)


def _splash_product(computation: Computation, instruction: Instruction) -> float:
    """FLOPs of one product over all pairs; queries and keys are the first operands that are no integers."""
    arrays = [
        array for name in instruction.operands if name in computation for array in computation[name].arrays
    ]
    queries, keys = [array.shape for array in arrays if array.dtype in ("bf16", "f32")][:2]
    return 2.0 * math.prod(queries) * keys[-2]


def _kind(inside: list[tuple[Computation, Instruction]], operation: str, products: float) -> str:
    opcodes = {each.opcode for _, each in inside}
    if any(_COLLECTIVE.match(opcode) for opcode in opcodes):
        return "collectives"
    if _ATTENTION.search(operation):
        return "attention"
    if products:
        return "products"
    if not opcodes <= _MOVING:
        return "pointwise"
    return (
        "stacks"
        if opcodes & _STACKING or not opcodes & {"copy", "transpose", "reshape", "concatenate"}
        else "copies"
    )


def _with_nameless(kernels: list[Kernel]) -> list[Kernel]:
    """Kernels without a path that stand among attention's, or among no others, are attention's too: of its
    blocks there are branches that only pass on what they are given."""
    named = {True: Counter(), False: Counter()}
    for kernel in kernels:
        if kernel.operation:
            named[_ATTENTION.search(kernel.operation) is not None][kernel.host] += 1
    if not named[True]:
        return kernels
    hosts = {each.host for each in kernels if named[True][each.host] >= named[False][each.host]}
    return [
        kernel._replace(kind="attention") if not kernel.operation and kernel.host in hosts else kernel
        for kernel in kernels
    ]


def _other_flops(computation: Computation, instruction: Instruction) -> float:
    if instruction.opcode in _ARITHMETIC:
        return float(math.prod(instruction.arrays[0].shape))
    if instruction.opcode in ("reduce", "reduce-window") and instruction.operands[0] in computation:
        return float(math.prod(computation[instruction.operands[0]].arrays[0].shape))
    return 0.0


def _traffic(
    program: Program, computation: Computation, instruction: Instruction
) -> tuple[dict[str, int], int]:
    """Bytes that are read of each operand, by what made it, and bytes that are written."""
    called = [name for name, _ in called_by(instruction) if name in program.computations]
    fused = program.computations[called[0]] if called else None
    read: dict[str, int] = {}
    for number, name in enumerate(instruction.operands):
        if name not in computation:
            continue
        part = (
            _part_of_operand(instruction, number)
            if fused is None
            else _part_of_parameter(program, fused, number)
        )
        made = _origin(computation, name)
        read[made] = read.get(made, 0) + (_size(computation[name]) if part is None else part)
    untouched = (
        _untouched(computation, [instruction]) if fused is None else _untouched(fused, _results(fused))
    )
    return read, _size(instruction) - untouched


def _size(instruction: Instruction) -> int:
    return sum(array.num_bytes for array in instruction.arrays)


def _origin(computation: Computation, name: str) -> str:
    """What made an operand, before it was fetched ahead."""
    made = computation[name]
    while made.opcode in ("bitcast", "copy-done", "copy-start") and made.operands[0] in computation:
        made = computation[made.operands[0]]
    return made.name


def _part_of_operand(instruction: Instruction, number: int) -> int | None:
    """Bytes that a lone operation takes of an operand; None: all."""
    if number == 0 and instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return _size(instruction)
    return 0 if number == 0 and instruction.opcode == "dynamic-update-slice" else None


def _part_of_parameter(program: Program, fused: Computation, number: int) -> int | None:
    """Bytes that a fusion takes of a parameter that it only slices or updates; None: it reads all of it."""
    names = {
        each.name for each in fused.values() if each.opcode == "parameter" and each.operands == (str(number),)
    }
    total = 0
    for each in fused.values():  # what is used comes before its uses
        places = [place for place, name in enumerate(each.operands) if name in names]
        if not places:
            continue
        if each.opcode in _ELEMENTWISE and not each.is_root:  # computed where a later slice asks for it
            names.add(each.name)
            continue
        part = _part_of_operand(each, places[0])
        if each.opcode == "fusion":
            ((callee, _),) = called_by(each)
            part = _part_of_parameter(program, program.computations[callee], places[0])
        if part is None or len(places) > 1:
            return None
        total += part
    return total


def _results(fused: Computation) -> list[Instruction]:
    """What a fusion computes: its root, or the elements of its root."""
    root = next(each for each in fused.values() if each.is_root)
    names = root.operands if root.opcode == "tuple" else (root.name,)
    return [made for made in (follow(fused, name) for name in names) if made is not None]


def _untouched(computation: Computation, results: list[Instruction]) -> int:
    """Bytes of results that stay as they were, since only a slice of them is written."""
    updates = (each for each in results if each.opcode == "dynamic-update-slice")
    return sum(
        _size(each) - _size(computation[each.operands[1]])
        for each in updates
        if each.operands[1] in computation
    )
