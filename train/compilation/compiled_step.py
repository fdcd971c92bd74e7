"""Compiles the train step of an experiment for the devices of a topology, without its data or tokenizer."""

import dataclasses
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxmill.data.config import TRAINED
from flaxmill.data.objectives import added_tokens
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.vocabulary.kinds import LEAST_SIZES
from flaxmill.model.functional import abstract_params
from flaxmill.model.random_bits import unroll_random_bits
from flaxmill.sharding.given_arguments import Given
from flaxmill.sharding.hardware.compiler_options import compiler_options
from flaxmill.sharding.hardware.topologies import Topology
from flaxmill.sharding.mesh import make_mesh
from flaxmill.sharding.rules import platform
from flaxmill.train.compilation.abstract_batch import AbstractBatch, abstract_batch
from flaxmill.train.experiment import Experiment, with_absolute_paths, with_definition
from flaxmill.train.jax_environment import product_precision
from flaxmill.train.optimizer.optimizers import make_optimizer
from flaxmill.train.resolution import resolve_before_data
from flaxmill.train.run.mesh_fit import check_mesh
from flaxmill.train.run.source import adopt_source
from flaxmill.train.state import TrainState, abstract_state
from flaxmill.train.step import make_train_step

NUM_SIGNALS = 2  # what processes tell each other with each step: stop, and save
_TOO_LARGE = (
    r"([\d.]+)([KMGT]?)\)? exceeds available HBM \(?([\d.]+)([KMGT]?)",
    r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm",
)
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class MemoryFigures(NamedTuple):
    """What the compiler says of a device's memory, in bytes."""

    arguments: int
    outputs: int
    aliased: int
    """Outputs that take the place of arguments, which are counted as both."""
    temporary: int
    peak: int
    host_state: int
    """Arguments and outputs in the memory of the host, each pair that shares its place once."""
    host_temporary: int


class CompiledStep(NamedTuple):
    """A train step, compiled."""

    experiment: Experiment
    """Resolved as far as it can be without data."""
    mesh: Mesh
    state: TrainState
    """Shapes, dtypes and shardings."""
    batch: AbstractBatch
    text: str
    """The optimised program."""
    memory: MemoryFigures
    compile_cpu_seconds: float
    """Processor time of tracing, lowering and compiling."""
    replaced: tuple[str, ...] = ()
    """What could not be compiled here as training would run it, a line each."""


class TooLargeError(Exception):
    """The compiler found no way to fit the step into a device's memory; both figures are bytes."""

    def __init__(self, needed: int, limit: int) -> None:
        super().__init__(f"the step needs {needed:,} bytes a device, and {limit:,} are there")
        self.needed, self.limit = needed, limit


def compile_step(experiment: Experiment, topology: Topology) -> CompiledStep:
    """The step that `train` would run on these devices, as their compiler makes it.

    Raises:
      ValueError: the experiment lacks a vocabulary size, or does not fit the topology's devices.
      TooLargeError: the TPU compiler gave up for want of memory.
    """
    experiment, replaced = _replace_uncompilable(resolve_without_data(experiment), platform_of(topology))
    mesh = mesh_on(experiment, topology)
    check_mesh(experiment, mesh)
    optimizer = make_optimizer(experiment.optimizer, abstract_params(experiment.model))
    state = abstract_state(experiment.model, optimizer, mesh)
    batch = abstract_batch(experiment, mesh)
    unroll_random_bits()
    with _product_precision(experiment, topology):
        step = make_train_step(experiment, optimizer, mesh, batch.max_predictions)
        return compile_on_mesh(experiment, mesh, step, state, batch)._replace(replaced=replaced)


def compile_on_mesh(
    experiment: Experiment, mesh: Mesh, step: Given, state: TrainState, batch: AbstractBatch
) -> CompiledStep:
    """The step of a resolved experiment, compiled; the processes of a job call it together.

    Raises:
      TooLargeError: the TPU compiler gave up for want of memory.
    """
    started = time.process_time()
    with jax.set_mesh(mesh):
        compiled = _compile(step.lower(state, batch.arrays, _signals(mesh)), platform(mesh))
    seconds = time.process_time() - started
    figures = _memory_figures(compiled.memory_analysis())
    return CompiledStep(experiment, mesh, state, batch, compiled.as_text(), figures, seconds)


def resolve_without_data(experiment: Experiment) -> Experiment:
    """The experiment with all that follows from other fields; its data are not looked at.

    Raises ValueError as `resolve` does, and where nothing says how large the vocabulary is.
    """
    return resolve_without_tokenizer(adopt_source(with_definition(with_absolute_paths(experiment))))


def resolve_without_tokenizer(experiment: Experiment) -> Experiment:
    """As `resolve_without_data`, for an experiment that has adopted its source and its definition.

    A tokenizer that is to be trained is taken to become as large as it may.
    """
    model = dataclasses.replace(experiment.model, vocab_size=_vocab_size(experiment))
    return resolve_before_data(dataclasses.replace(experiment, model=model))


def mesh_on(experiment: Experiment, topology: Topology) -> Mesh:
    """The experiment's mesh of all the topology's devices; it has as many slices as the topology."""
    config = dataclasses.replace(experiment.mesh, slices=topology.num_slices)
    mesh = make_mesh(config, topology.devices)
    if mesh.size != len(topology.devices):
        several = {axis: size for axis, size in mesh.shape.items() if size > 1 or axis in ("data", "fsdp")}
        axes = " * ".join(f"mesh.{axis}={size}" for axis, size in several.items())
        raise ValueError(
            f"{axes} is {mesh.size}, and {topology.name} has {len(topology.devices)} devices; change an "
            "axis, or set one to None: it takes the remaining devices"
        )
    return mesh


def platform_of(topology: Topology) -> str:
    """tpu, gpu or cpu."""
    return "cpu" if topology.chip is None else topology.chip.platform


def _vocab_size(experiment: Experiment) -> int:
    data, model = experiment.data, experiment.model
    if model.vocab_size is not None:
        return model.vocab_size
    if data.tokenizer not in TRAINED:
        if not os.path.exists(data.tokenizer):
            raise ValueError(
                f"no vocabulary size: model.vocab_size is None, and data.tokenizer={data.tokenizer}, which "
                "has a size of its own, is not here; give --model.vocab-size"
            )
        return Tokenizer.load(data.tokenizer).vocab_size
    trained = LEAST_SIZES["bpe"][0] if data.tokenizer == "bytes" else data.vocab_size
    return trained + len(added_tokens(experiment.objective, data))


def _replace_uncompilable(experiment: Experiment, platform: str) -> tuple[Experiment, tuple[str, ...]]:
    """The experiment without what needs the hardware to compile, and a line for each change."""
    model = experiment.model
    may_be_fused = model.dtype != "float32" and model.positions != "relative"
    may_be_fused &= model.attention in ("auto", "cudnn") and not model.attention_dropout_rate
    if platform != "gpu" or not may_be_fused or experiment.mesh.context != 1:
        return experiment, ()
    line = (
        "attention: cuDNN's kernel cannot be compiled without its library, attention in blocks is in its "
        "place (model.attention=blocks), which keeps no pairs of places either"
    )
    return dataclasses.replace(experiment, model=dataclasses.replace(model, attention="blocks")), (line,)


def _product_precision(experiment: Experiment, topology: Topology) -> Any:
    if platform_of(topology) == "cpu":
        return nullcontext()
    return jax.default_matmul_precision(product_precision(experiment.model.dtype))  # type: ignore[arg-type]


def _signals(mesh: Mesh) -> jax.ShapeDtypeStruct | None:
    """What the processes of a job give to each step; a process alone gives nothing."""
    if len({device.process_index for device in mesh.devices.flat}) == 1:
        return None
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return jax.ShapeDtypeStruct((mesh.size, NUM_SIGNALS), jnp.int32, sharding=sharding)


def _compile(lowered: Any, platform: str) -> Any:
    try:
        with _held_stderr():
            return lowered.compile(compiler_options=compiler_options(platform))
    except jax.errors.JaxRuntimeError as error:
        if found := _find_sizes(str(error)):
            raise TooLargeError(*found) from None
        raise


@contextmanager
def _held_stderr() -> Iterator[None]:
    """Keep back what compilers write to stderr, past Python, such as that they cannot save enough memory.

    Where one fails, it is shown after all.
    """
    sys.stderr.flush()
    own = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException as error:
            held.seek(0)
            if _find_sizes(str(error)) is None:
                os.write(own, held.read())
            raise
        finally:
            os.dup2(own, 2)
            os.close(own)


def _find_sizes(message: str) -> tuple[int, int] | None:
    """Bytes needed and bytes there, from the compiler's message; None: it is about something else."""
    found = next(filter(None, (re.search(form, message) for form in _TOO_LARGE)), None)
    if found is None:
        return None
    needed, needed_unit, limit, limit_unit = found.groups()
    return int(float(needed) * UNITS[needed_unit]), int(float(limit) * UNITS[limit_unit])


def _memory_figures(analysis: Any) -> MemoryFigures:
    return MemoryFigures(
        analysis.argument_size_in_bytes,
        analysis.output_size_in_bytes,
        analysis.alias_size_in_bytes,
        analysis.temp_size_in_bytes,
        analysis.peak_memory_in_bytes,
        analysis.host_argument_size_in_bytes
        + analysis.host_output_size_in_bytes
        - analysis.host_alias_size_in_bytes,
        analysis.host_temp_size_in_bytes,
    )
