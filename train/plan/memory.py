"""What a device holds at the peak of a compiled step, by kind, and its largest arrays."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from flaxmill.sharding.hardware.chips import Chip
from flaxmill.train.compilation.compiled_step import CompiledStep, MemoryFigures
from flaxmill.train.compilation.hlo_text import (
    Array,
    Instruction,
    Program,
    find_sites,
    parse_program,
    trip_count,
)
from flaxmill.train.plan.weights import HostMemory, form_of, state_bytes

# These name arrays that others have made.
_NO_BUFFER = {
    "parameter",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "constant",
}


class DeviceMemory(NamedTuple):
    """Bytes of one device at the peak of a step."""

    parameters: int
    optimizer: int
    gradients: int
    """Of the trained parameters, as large as they are."""
    activations: int
    """What the layers' forward pass keeps for the backward pass."""
    temporary: int
    """The rest: gathered weights, what one layer or the loss needs while it runs, and the batch."""
    total: int
    """As the compiler has it."""
    limit: int | None
    """None: a CPU has whatever its machine has."""
    host: HostMemory = HostMemory()
    """What its host keeps for it, which is no part of the total."""

    @property
    def fits(self) -> bool:
        return self.limit is None or self.total <= self.limit


class Buffer(NamedTuple):
    """An array that a program makes."""

    array: Array
    operation: str
    """JAX's path of named scopes, or the compiler's name."""

    def __str__(self) -> str:
        return f"{self.array.dtype}{list(self.array.shape)} of {self.operation}"


def device_memory(step: CompiledStep, chip: Chip | None) -> DeviceMemory:
    """The compiler's total, of which the state is known exactly, and gradients and activations by their
    arrays.

    The compiler of absent GPUs counts state that is kept on the host as the device's; that is put right.
    """
    sizes = state_bytes(step.experiment.model, step.experiment.optimizer, tuple(step.mesh.shape.items()))
    total = total_bytes(step.memory, "cpu" if chip is None else chip.platform)
    total -= max(0, sizes.on_host - step.memory.host_state)
    rest = max(0, total - sizes.parameters - sizes.optimizer)
    gradients = min(rest, sizes.trained)
    kept = sum(array.num_bytes for array in saved_activations(step))
    activations = min(rest - gradients, kept)
    return DeviceMemory(
        sizes.parameters,
        sizes.optimizer,
        gradients,
        activations,
        rest - gradients - activations,
        total,
        chip.memory_bytes if chip else None,
        HostMemory(max(sizes.on_host, step.memory.host_state), step.memory.host_temporary),
    )


def total_bytes(memory: MemoryFigures, platform: str) -> int:
    """All that a device holds at once.

    TPU programs reuse memory among temporaries that their sum counts apart; there the compiler's own peak is
    the figure that it compares with the device's memory, but for state on the host, which it counts too. On
    CPUs that peak leaves temporaries out.
    """
    if platform == "tpu":
        return memory.arguments + memory.peak - memory.aliased - memory.host_state
    return memory.arguments + memory.temporary + memory.outputs - memory.aliased


def largest_buffer(text: str) -> Buffer:
    """The largest array that the program makes in the memory of the device."""
    program = parse_program(text)
    made = [
        Buffer(array, instruction.op_name or instruction.name)
        for instruction in _scheduled(program)
        if instruction.opcode not in _NO_BUFFER
        for array in instruction.arrays
        if not array.on_host
    ]
    return max(made, key=lambda buffer: buffer.array.num_bytes)


def saved_activations(step: CompiledStep) -> list[Array]:
    """The arrays that loops over the layers write a layer at a time into the device's memory, but weights.

    They are stacked over the loop's runs and stand in the state of the loop, as the weights do, which are
    told apart by their shapes. Layers that are not scanned have none that can be told apart.
    """
    program = parse_program(step.text)
    weights = {form_of(shape) for shape in _weight_shapes(step)}
    kept: Counter[Array] = Counter()
    for name in find_sites(program):
        computation = program.computations[name]
        for loop in (each for each in computation.values() if each.opcode == "while"):
            if not _runs_layers(program, loop):
                continue
            runs = trip_count(program, computation, loop)
            stacked = Counter(
                array
                for array in loop.arrays
                if len(array.shape) > 2
                and not array.on_host
                and array.shape[0] in (runs, runs + 1)
                and runs > 1
                # A weight may be split further while it is reduced, and stacked with a dimension of one.
                and form_of(array.shape) not in weights
            )
            kept |= stacked
    return [array for array, count in kept.items() for _ in range(count)]


def _weight_shapes(step: CompiledStep) -> Iterable[tuple[int, ...]]:
    """Shapes of all that belongs to the state, as a device holds it, and whole."""
    import jax

    for leaf in jax.tree.leaves((step.state.params, step.state.optimizer)):
        yield leaf.sharding.shard_shape(leaf.shape)
        yield leaf.shape


def _runs_layers(program: Program, loop: Instruction) -> bool:
    body = next((part for part in loop.attributes.split("body=%")[1:]), "").split(",")[0].strip()
    return any("_block" in each.op_name for each in program.computations.get(body, {}).values())


def _scheduled(program: Program) -> Iterable[Instruction]:
    """The instructions that make arrays in memory, which those inside fusions do not."""
    hosts = {site.host for sites in find_sites(program).values() for site in sites}
    for name in sorted(hosts):
        yield from program.computations[name].values()


def in_words(num_bytes: float) -> str:
    """Bytes with the unit in which they are neither many nor a fraction: 1.50 GiB, 3.0 MiB or 8 bytes."""
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:,.2f} GiB"
    if num_bytes >= 2**20:
        return f"{num_bytes / 2**20:.1f} MiB"
    return f"{num_bytes / 2**10:.1f} KiB" if num_bytes >= 2**10 else f"{num_bytes:.0f} bytes"
