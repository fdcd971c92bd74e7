"""A compiled program, read from the text that XLA prints: computations, and how often each of them runs."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

ITEM_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2", "f8e4m3", "f8e3m4", "f8e8m0fnu"), 1.0),
    **dict.fromkeys(("f8e4m3fnuz", "f8e5m2fnuz", "f8e4m3b11fnuz"), 1.0),
    **dict.fromkeys(("s16", "u16", "bf16", "f16"), 2.0),
    **dict.fromkeys(("s32", "u32", "f32"), 4.0),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8.0),
    **dict.fromkeys(("s4", "u4", "f4e2m1fn"), 0.5),
    "c128": 16.0,
}

_ARRAY = re.compile(r"\b([a-z]+[a-z0-9]*)\[([0-9,<=]*)\](?:\{([^}]*)\})?")
_HOST_MEMORY = "S(5)"  # in an array's layout
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{\s*$")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_CALLED = re.compile(r"\b(calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_CALLED_SETS = re.compile(r"\b(?:calls|branch_computations|called_computations)=\{([^}]*)\}")
# These run the computation that they name once for each element, and it is only arithmetic.
_OF_ELEMENTS = re.compile(
    r"(all-)?reduce(-start|-scatter|-window)?|reduce-scatter-start|scatter|sort|map|select-and-scatter"
)
_COPIES = ("copy", "copy-start", "copy-done", "bitcast", "reshape", "transpose", "convert")
# The end of what has begun before; both name the same computation.
_ENDS = ("async-done", "async-update")


class Array(NamedTuple):
    """The type of an array."""

    dtype: str
    shape: tuple[int, ...]
    on_host: bool = False
    """Whether it lies in the memory of the device's host."""

    @property
    def num_bytes(self) -> int:
        return int(math.prod(self.shape) * ITEM_BYTES[self.dtype])


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    arrays: tuple[Array, ...]
    """What it computes: all arrays of a tuple, whatever its nesting."""
    opcode: str
    operands: tuple[str, ...]
    """Names of instructions of the same computation; of a constant, its value."""
    attributes: str
    is_root: bool

    @property
    def op_name(self) -> str:
        """Where it comes from: the path of named scopes in JAX."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


Computation = dict[str, Instruction]


class Program(NamedTuple):
    """Computations by name, each with its instructions by name."""

    computations: dict[str, Computation]
    entry: str


class Site(NamedTuple):
    """A place from which computations are run, over and over."""

    host: str
    """The computation in whose schedule it stands: the program's entry, a loop's body, or a branch."""
    times: int
    """Runs a step."""


def parse_program(text: str) -> Program:
    """Raises ValueError where the text holds no program."""
    computations: dict[str, Computation] = {}
    entry, current = None, None
    for line in _whole_lines(text):
        if not line.startswith(" "):
            if header := _COMPUTATION.match(line):
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
            elif line.rstrip() == "}":
                current = None
        elif current is not None and (instruction := _read_instruction(line)):
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("the compiled program has no ENTRY computation")
    return Program(computations, entry)


def find_sites(program: Program) -> dict[str, list[Site]]:
    """Where each computation is run from, and how often a step runs it there.

    Raises:
      ValueError: a loop does not say how often it runs.
    """
    sites: dict[str, list[Site]] = {}

    def visit(name: str, site: Site) -> None:
        sites.setdefault(name, []).append(site)
        computation = program.computations[name]
        for instruction in computation.values():
            for callee, is_host in called_by(instruction):
                times = site.times
                if instruction.opcode == "while":
                    times *= trip_count(program, computation, instruction)
                if callee in program.computations:
                    visit(callee, Site(callee if is_host else site.host, times))

    visit(program.entry, Site(program.entry, 1))
    return sites


def called_by(instruction: Instruction) -> list[tuple[str, bool]]:
    """The computations that it runs, and whether each has a schedule of its own, as a loop's body does.

    Conditions of loops are left out: they compute no arrays.
    """
    if instruction.opcode in _ENDS or _OF_ELEMENTS.fullmatch(instruction.opcode):
        return []
    is_host = instruction.opcode in ("while", "conditional", "call")
    called = [name for _, name in _CALLED.findall(instruction.attributes)]
    for names in _CALLED_SETS.findall(instruction.attributes):
        called += [name.strip().lstrip("%") for name in names.split(",")]
    return [(name, is_host) for name in called]


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int:
    """How often a loop runs its body, which the compiler states, or the loop's condition does.

    Raises:
      ValueError: neither does.
    """
    if stated := re.search(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)', loop.attributes):
        return int(stated[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.attributes)
    compared = _comparison(program, condition[1]) if condition else None
    if compared is None:
        raise ValueError(f"the loop {loop.name} of the compiled program does not say how often it runs")
    index, limit = compared
    initial = _constant(computation, _element(computation, loop.operands[0], index))
    return limit - (initial or 0)


def _comparison(program: Program, condition: str) -> tuple[int, int] | None:
    """The element of the loop's state that counts, and the number below which the loop goes on."""
    computation = program.computations.get(condition, {})
    root = next((instruction for instruction in computation.values() if instruction.is_root), None)
    if root is not None and root.opcode == "compare" and "direction=LT" in root.attributes:
        counter, limit = follow(computation, root.operands[0]), _constant(computation, root.operands[1])
        if counter is None or limit is None:
            return None
        found = re.search(r"index=(\d+)", counter.attributes)
        return (int(found[1]) if found else 0), limit
    # The comparison may lie in a fusion; the only integer beside it is then the limit.
    values = [_constant(computation, name) for name, i in computation.items() if i.opcode == "constant"]
    return (0, values[0]) if len(values) == 1 and values[0] is not None else None


def _element(computation: Computation, name: str, index: int) -> str:
    """The instruction that makes an element of a tuple."""
    made = follow(computation, name)
    return made.operands[index] if made is not None and made.opcode == "tuple" else name


def follow(computation: Computation, name: str) -> Instruction | None:
    """What an instruction is a copy of, in whatever layout, shape and dtype."""
    instruction = computation.get(name)
    while instruction is not None and instruction.opcode in _COPIES:
        instruction = computation.get(instruction.operands[0])
    return instruction


def _constant(computation: Computation, name: str) -> int | None:
    instruction = follow(computation, name)
    if instruction is None or instruction.opcode != "constant" or not instruction.operands:
        return None
    value = instruction.operands[0]
    return int(value) if re.fullmatch(r"-?\d+", value) else None


def _whole_lines(text: str) -> Iterator[str]:
    """Lines, where a quoted string may hold line breaks: Pallas writes such strings into metadata."""
    parts: list[str] = []
    is_open = False
    for line in text.splitlines():
        if is_open and _COMPUTATION.match(line):  # the string was never closed
            yield "\n".join(parts)
            parts, is_open = [], False
        parts.append(line)
        if re.sub(r"\\.", "", line).count('"') % 2:
            is_open = not is_open
        if not is_open:
            yield "\n".join(parts)
            parts = []
    if parts:
        yield "\n".join(parts)


def _read_instruction(line: str) -> Instruction | None:
    head = _INSTRUCTION.match(line)
    if head is None:
        return None
    type_text, rest = _split_type(line[head.end() :])
    opcode = _OPCODE.match(rest)
    if opcode is None:
        return None
    inside, attributes = _split_at_close(rest[opcode.end() - 1 :])
    operands = tuple(
        part.split(" ")[-1].lstrip("%") for part in _split_list(re.sub(r"/\*.*?\*/", "", inside))
    )
    return Instruction(
        head[2], find_arrays(type_text), opcode[1], operands, attributes, is_root=head[1] is not None
    )


def find_arrays(type_text: str) -> tuple[Array, ...]:
    """The arrays that a type names, in order."""
    return tuple(
        Array(
            dtype,
            tuple(int(size.replace("<=", "")) for size in sizes.split(",") if size),
            _HOST_MEMORY in layout,
        )
        for dtype, sizes, layout in _ARRAY.findall(type_text)
        if dtype in ITEM_BYTES
    )


def _split_type(text: str) -> tuple[str, str]:
    if text.startswith("("):
        inside, rest = _split_at_close(text)
        return inside, rest
    type_text, _, rest = text.partition(" ")
    return type_text, rest


def _split_at_close(text: str) -> tuple[str, str]:
    """What stands within the bracket that the text begins with, and what comes after."""
    depth = 0
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return text[1 : found.start()], text[found.end() :]
    return text[1:], ""


def _split_list(text: str) -> list[str]:
    """The parts between commas that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for found in re.finditer(r"[(){}\[\],]", text):
        if found[0] == "," and depth == 0:
            parts.append(text[start : found.start()])
            start = found.end()
        elif found[0] != ",":
            depth += 1 if found[0] in "({[" else -1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]
