"""Reads what the compilers of absent TPUs and GPUs make of training steps: where the time can go.

    python benchmarks/step_programs.py [CONFIG/TARGET ...] [--repeats N]

For each config and target (gpt2_124m/tpu, bert_large/gpu ...) the step is compiled as `flaxmill plan`
compiles it, and every kernel of the program is read: the FLOPs of its products and of the rest, the bytes
that it moves, and its least time: products at the chip's peak or bytes at its bandwidth, whichever is more.
Where the compiler estimates cycles, as TPU's does, they are the time. Nothing is run: these are figures of
programs, not of machines. An array that several pointwise kernels read is listed by what they read again.

cuDNN's attention cannot be compiled without its library: the blocks that stand in its place on a GPU are
shown and left out of the sum. It needs the extra `plan`.
"""

import argparse
import dataclasses
import importlib
import importlib.metadata
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from sides.program_kernels import KINDS, Kernel, find_kernels

from flaxmill.sharding.hardware.chips import Chip
from flaxmill.sharding.hardware.topologies import find_topology
from flaxmill.train.compilation.compiled_step import CompiledStep, compile_step
from flaxmill.train.metrics.flops import step_flops
from flaxmill.train.plan.memory import total_bytes

CLOCKS = {"v5e": 1.5e9, "v5p": 1.75e9}
"""Hz, from peak FLOP/s: v5e has four arrays of 128 x 128 multipliers, v5p twice four."""
LARGE = 2**20  # bytes of an array that is listed


class Case(NamedTuple):
    """A step: eight devices, with so many rows each."""

    topology: str
    batch_size: int
    accumulate: int = 1


CASES = {
    "gpt2_124m/tpu": Case("v5e:2x4", 8 * 16),
    "gpt2_124m/gpu": Case("h100:1x8", 8 * 16),
    "bert_large/tpu": Case("v5e:2x4", 8 * 256, accumulate=2),
    "bert_large/gpu": Case("h100:1x8", 8 * 256, accumulate=2),
    "llama3_8b/tpu": Case("v5p:2x2x2", 8),
    "llama3_8b/gpu": Case("h100:1x8", 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cases", nargs="*", metavar="CONFIG/TARGET", help=f"of {', '.join(CASES)}; default: all"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="repeated reads to list (default 5)"
    )
    arguments = parser.parse_args()
    for name in arguments.cases:
        if name not in CASES:
            parser.error(f"{name} is none of {', '.join(CASES)}")
    libraries = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin")
    print("; ".join(f"{library} {importlib.metadata.version(library)}" for library in libraries))
    for name in arguments.cases or CASES:
        _show(name, arguments.repeats)


def _show(name: str, num_repeats: int) -> None:
    case = CASES[name]
    config = importlib.import_module(f"flaxmill.configs.{name.partition('/')[0]}").config
    topology = find_topology(case.topology)
    assert topology.chip is not None
    step = compile_step(
        dataclasses.replace(config, batch_size=case.batch_size, accumulate=case.accumulate), topology
    )
    kernels = find_kernels(step.text)
    gib = total_bytes(step.memory, topology.chip.platform) / 2**30
    rows = f"{case.batch_size} rows of {config.data.sequence_length}"
    print(f"\n## {name}: {rows}, accumulate={case.accumulate}, on {case.topology}, {gib:.2f} GiB a device")
    print(*step.replaced, sep="\n", end="\n" if step.replaced else "")
    counted = [kernel for kernel in kernels if kernel.kind != "attention" or not step.replaced]
    _print_kinds(kernels, counted, topology.chip)
    _print_whole(step, counted, topology.chip)
    _print_copies(kernels, step.experiment.model.num_layers * case.accumulate)
    for line in repeated_reads(counted)[:num_repeats]:
        print(line)


def seconds(kernel: Kernel, chip: Chip) -> float:
    """The compiler's estimate of one run, or the least that the chip's peaks allow."""
    if kernel.cycles is not None and chip.name in CLOCKS:
        return kernel.cycles / CLOCKS[chip.name]
    return max(kernel.product_flops / chip.peak_flops, kernel.num_bytes / chip.memory_bandwidth)


def _print_kinds(kernels: Sequence[Kernel], counted: Sequence[Kernel], chip: Chip) -> None:
    whole = sum(seconds(kernel, chip) * kernel.times for kernel in counted)
    print(
        "| kind | runs | TFLOP of products | GFLOP of the rest | GB | ms | share |\n"
        "|---|---|---|---|---|---|---|"
    )
    for kind in KINDS:
        own = [kernel for kernel in kernels if kernel.kind == kind]
        products, others, moved = (
            sum(count(each) * each.times for each in own)
            for count in (lambda k: k.product_flops, lambda k: k.other_flops, lambda k: k.num_bytes)
        )
        time = sum(seconds(each, chip) * each.times for each in own)
        share = f"{time / whole:.1%}" if own and own[0] in counted else "not counted"
        print(
            f"| {kind} | {sum(each.times for each in own):,} | {products / 1e12:.2f} | {others / 1e9:.0f} "
            f"| {moved / 1e9:.1f} | {1e3 * time:.1f} | {share} |"
        )


def _print_whole(step: CompiledStep, counted: Sequence[Kernel], chip: Chip) -> None:
    experiment = step.experiment
    time = sum(seconds(kernel, chip) * kernel.times for kernel in counted)
    products, others = (
        sum(flops * kernel.times for kernel, flops in zip(counted, of_each, strict=True))
        for of_each in ([k.product_flops for k in counted], [k.other_flops for k in counted])
    )
    model = step_flops(
        experiment.model,
        experiment.batch_size,
        experiment.data.sequence_length,
        step.batch.max_predictions,
    )
    print(
        f"all: {1e3 * time:.1f} ms; FLOPs outside products {others / (products + others):.2%}; products "
        f"at the peak {products / chip.peak_flops / time:.1%} of the time; the model's own FLOPs a device "
        f"{model.full / step.mesh.size / 1e12:.2f} T"
    )
    blocks = {size for kernel in counted for size in kernel.blocks}
    if blocks:
        print(f"attention: splash, blocks of {', '.join(map(str, sorted(blocks)))}")


def _print_copies(kernels: Sequence[Kernel], num_layers: int) -> None:
    inside = [kernel for kernel in kernels if kernel.kind == "copies" and kernel.times % num_layers == 0]
    count = sum(kernel.times for kernel in inside) / num_layers
    moved = sum(kernel.num_bytes * kernel.times for kernel in inside) / num_layers
    print(f"copies a layer: {count:.0f}, {moved / 1e6:.1f} MB")


def repeated_reads(kernels: Sequence[Kernel]) -> list[str]:
    """Arrays that more than one pointwise kernel of a schedule reads, those first that are read most."""
    readers: dict[tuple[str, str], list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        for made in kernel.read if kernel.kind == "pointwise" else ():
            readers[kernel.host, made].append(kernel)
    found = []
    for (_, made), several in readers.items():
        again = sum(each.read[made] * each.times for each in several[1:])
        if len(several) > 1 and several[0].read[made] >= LARGE:
            scopes = ", ".join(sorted({_short(each.operation) for each in several}))
            found.append(
                (again, f"{again / 1e9:.2f} GB read again: {made}, {len(several)} kernels: {scopes}")
            )
    return [line for _, line in sorted(found, reverse=True)]


def _short(operation: str) -> str:
    """The path without what all paths have."""
    return re.sub(r"jit\(train_step\)/|shard_map/|while/body/|closed_call/|checkpoint/", "", operation)


if __name__ == "__main__":
    main()
