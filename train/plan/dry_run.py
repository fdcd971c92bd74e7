"""`flaxmill train --dry-run`: all that comes before the first step, and what the run would be."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from flaxmill.data.mixture.mixed_dataset import AnyDataset, MixedDataset
from flaxmill.data.show import Line, Span, show_batch
from flaxmill.model.layer_plan import LAYER_GROUPS
from flaxmill.model.params import LeafPath
from flaxmill.sharding.processes.coordination import is_main
from flaxmill.train.compilation.abstract_batch import abstract_batch
from flaxmill.train.compilation.ahead import Ahead
from flaxmill.train.compilation.compiled_step import TooLargeError, compile_on_mesh
from flaxmill.train.doctor.device_probe import measure_product
from flaxmill.train.experiment import Experiment
from flaxmill.train.failures import EXIT_DONE, EXIT_FAILURE
from flaxmill.train.input_pipeline import make_train_batches
from flaxmill.train.job import ChooseMesh, prepare_all
from flaxmill.train.metrics.progress import short_number
from flaxmill.train.optimizer.freezing import Count, count_by_leaf
from flaxmill.train.plan.analytic import Estimate, estimate
from flaxmill.train.plan.assemble import checkpoint_bytes
from flaxmill.train.plan.auto_mesh import Devices, find_devices
from flaxmill.train.plan.cost import in_time
from flaxmill.train.plan.memory import DeviceMemory, device_memory, in_words
from flaxmill.train.plan.report import KINDS, MEANINGS, table
from flaxmill.train.run.directory import Allowed, newest_checkpoint
from flaxmill.train.state import abstract_state
from flaxmill.train.terminal.shown_lines import print_lines

SHOWN_ROWS = 2


class _Prepared(NamedTuple):
    """A run that could begin."""

    experiment: Experiment
    mesh: Mesh
    dataset: AnyDataset
    devices: Devices
    memory: DeviceMemory | TooLargeError
    estimate: Estimate


def dry_run(experiment: Experiment, allowed: Allowed, choose_mesh: ChooseMesh | None, heading: str) -> int:
    """Prepare the data, check all, compile the step, and print what the run would be; it does not begin.

    Nothing of a run directory is made or changed. What is prepared and compiled stays in the cache, where the
    run finds it. All processes of a job call it together; the main one prints.

    Returns:
      the exit code: 1 where the step does not fit into the devices' memory.

    Raises:
      ValueError: what `train` would refuse.
    """
    with Ahead() as ahead:
        experiment, mesh, dataset = prepare_all(experiment, allowed, ahead, choose_mesh)
        prepared = _compile(experiment, mesh, dataset, ahead)
    if is_main():
        print(f"{heading}\n" if heading else "")
        print_lines(list(_describe(prepared)))
    return EXIT_DONE if _fits(prepared.memory) else EXIT_FAILURE


def _compile(experiment: Experiment, mesh: Mesh, dataset: AnyDataset, ahead: Ahead) -> _Prepared:
    devices, programs = find_devices(), ahead.programs(experiment, mesh)
    found = estimate(experiment, dict(mesh.shape), devices.chip, devices.num_slices, devices.domain)
    state, batch = (
        abstract_state(experiment.model, programs.optimizer, mesh),
        abstract_batch(experiment, mesh),
    )
    ahead.wait_for("train_step")
    try:
        step = compile_on_mesh(experiment, mesh, programs.train_step, state, batch)
        memory = device_memory(step, devices.chip)._replace(limit=devices.memory_bytes)
    except TooLargeError as error:
        memory = error
    return _Prepared(experiment, mesh, dataset, devices, memory, found)


def _fits(memory: DeviceMemory | TooLargeError) -> bool:
    return isinstance(memory, DeviceMemory) and memory.fits


def _describe(run: _Prepared) -> Iterator[Line]:
    for part in (_parameters(run), _batch(run), _memory(run), _length(run)):
        yield from part
        yield ()


def _title(text: str) -> Line:
    return (Span(text, "title"),)


def _parameters(run: _Prepared) -> Iterator[Line]:
    yield _title("Parameters")
    counts = count_by_leaf(run.experiment.optimizer.freeze, run.experiment.model)
    parts: dict[str, list[Count]] = defaultdict(list)
    for path, count in counts.items():
        parts[_part_of(path)].append(count)
    total = sum(count.all for count in counts.values())
    rows = [(name, *_shown(of_part, total)) for name, of_part in parts.items()]
    rows.append(("all", *_shown(list(counts.values()), total)))
    yield from _plain(table(("part", "number", "share", "trained"), rows))


def _part_of(path: LeafPath) -> str:
    """embed/tokens, layers/attention, final_norm: what a part of a model is usually called."""
    stack = path[:1] if path[0] == "encoder" else ()
    rest = path[len(stack) :]
    depth = 2 if rest[0] in ("embed", *LAYER_GROUPS) else 1
    return "/".join((*stack, *rest[:depth]))


def _shown(counts: list[Count], total: int) -> tuple[str, str, str]:
    number, trained = sum(count.all for count in counts), sum(count.trained for count in counts)
    return f"{number:,}", f"{number / total:.1%}", "all" if trained == number else f"{trained:,}"


def _batch(run: _Prepared) -> Iterator[Line]:
    experiment, dataset = run.experiment, run.dataset
    num_rows = min(SHOWN_ROWS, experiment.batch_size)
    batch = make_train_batches(dataset, experiment).rows(0, 0, num_rows)
    sources = tuple(dataset.sources) if isinstance(dataset, MixedDataset) else ()
    yield _title(f"The first batch, {num_rows} of its {experiment.batch_size} rows")
    yield from show_batch(batch, dataset.tokenizer, num_rows, dataset.label_names, sources)


def _memory(run: _Prepared) -> Iterator[Line]:
    memory = run.memory
    yield _title("Memory of a device")
    if isinstance(memory, TooLargeError):
        yield from _plain([f"  {memory}", "  `flaxmill plan` says what would make it fit"])
        return
    # Of a small model, whose layers are not scanned, activations cannot be told from what is temporary.
    kinds = [kind for kind in KINDS if getattr(memory, kind) or kind != "activations"]
    rows = [(kind, in_words(getattr(memory, kind)), MEANINGS[kind]) for kind in kinds]
    rows.append(("all", in_words(memory.total), _verdict(memory)))
    yield from _plain(table(("kind", "bytes", "what"), rows))


def _verdict(memory: DeviceMemory) -> str:
    there = f"of {in_words(memory.limit or 0)}, by the compiler"
    return there if memory.fits else f"{there}: it does not fit; `flaxmill plan` says what would help"


def _length(run: _Prepared) -> Iterator[Line]:
    steps, rows, found = run.experiment.steps, run.experiment.batch_size, run.estimate
    tokens, flops = short_number(steps * found.num_tokens), found.flops.causal
    yield _title("The run")
    lines = (
        _begins(run.experiment),
        f"{steps:,} steps of {rows:,} rows, {_epochs(run)}: {tokens} tokens",
        f"{flops:.3g} FLOPs a step, {steps * flops:.3g} in all",
        _time(run),
        f"a checkpoint takes {in_words(checkpoint_bytes(run.experiment))}",
    )
    yield from _plain([f"  {line}" for line in lines])


def _begins(experiment: Experiment) -> str:
    step = newest_checkpoint(experiment)
    if step is not None:
        return f"continues {experiment.run_dir} at step {step:,}"
    return f"begins in {experiment.run_dir or 'a new directory'}"


def _epochs(run: _Prepared) -> str:
    """How often the training rows are read, which sources of a mixture are at different rates."""
    if isinstance(run.dataset, MixedDataset):
        return "of a mixture"
    rows = make_train_batches(run.dataset, run.experiment).num_rows
    return f"{run.experiment.steps * run.experiment.batch_size / rows:.3g} epochs of {rows:,}"


def _time(run: _Prepared) -> str:
    roofline = run.estimate.roofline
    seconds = _measured(run) if roofline is None else roofline.seconds
    if seconds is None:
        return "time: unknown for this device; a few steps tell, as in --steps 20"
    speed = "of a matrix product here" if roofline is None else "that the hardware has at most"
    whole = in_time(run.experiment.steps * seconds)
    return f"time: at least {in_time(seconds)} a step and {whole} in all, at the speed {speed}"


def _measured(run: _Prepared) -> float | None:
    """The least seconds of a step, at the speed of a product; None: that is of another dtype."""
    device = run.mesh.local_devices[0]
    product = measure_product(device)
    if product["dtype"] != run.experiment.model.dtype:
        return None
    # The devices of a CPU share its cores, with which the product was computed.
    num_alike = jax.process_count() if device.platform == "cpu" else run.mesh.size
    return run.estimate.hardware_flops / (num_alike * product["flops"])


def _plain(lines: list[str]) -> Iterator[Line]:
    return ((Span(line),) for line in lines)
