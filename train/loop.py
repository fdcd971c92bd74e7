"""The training loop, top to bottom: mesh, data, model, state or restore, step, log, save, evaluate."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from flaxmill.data.dataset import Dataset
from flaxmill.data.preparation import prepare
from flaxmill.model.apply import abstract_params, count_params
from flaxmill.sharding.mesh import make_mesh
from flaxmill.train.cache_directory import cache_directory
from flaxmill.train.checkpoint import Checkpoints
from flaxmill.train.compilation_cache import enable_compilation_cache
from flaxmill.train.evaluation import (
    check_same_data,
    compare_with_counting,
    describe_evaluation,
    evaluate,
)
from flaxmill.train.experiment import Experiment, check_mesh, resolve, with_absolute_paths
from flaxmill.train.input_pipeline import make_batches, read_ahead
from flaxmill.train.metrics import MetricsWriter
from flaxmill.train.optimizer import make_optimizer
from flaxmill.train.progress import ProgressLine, short_number
from flaxmill.train.recorder import Recorder
from flaxmill.train.run_directory import (
    CHECKPOINTS,
    METRICS_FILE,
    check_run_directory,
    lock_run_directory,
    open_run_directory,
    write_config,
)
from flaxmill.train.samples import sample_text
from flaxmill.train.state import TrainState, abstract_state, init_state
from flaxmill.train.step import make_eval_step, make_train_step
from flaxmill.train.trackers import TensorBoard


class Stop(Protocol):
    """Whether someone asked the run to save and end."""

    @property
    def requested(self) -> bool: ...


class Result(NamedTuple):
    """Where the run is, how far it came, and what the last evaluation said (empty when preempted)."""

    directory: Path
    step: int
    preempted: bool
    metrics: dict[str, float]


def train(
    experiment: Experiment, *, extend: bool = False, stop: Stop | None = None, heading: str = ""
) -> Result:
    """Train, or continue, one experiment.

    Args:
      heading: printed first, once the experiment has passed its checks.
      extend: allow more `steps` than the run directory's config has.
      stop: asked after every step; when it says so the run saves and returns with `preempted`.

    Raises:
      ValueError: the user's mistake, before anything is trained.
      DivergenceError: too many steps in a row had a loss or gradient that was not finite.
    """
    experiment = with_absolute_paths(experiment)
    cache = cache_directory()
    enable_compilation_cache(cache)
    mesh = make_mesh(experiment.mesh)
    check_mesh(experiment, mesh)
    check_run_directory(experiment, extend=extend)  # before the data is prepared, which may take long
    dataset = prepare(experiment.data, experiment.objective, cache=cache, log=print)
    experiment = resolve(experiment, dataset.tokenizer)
    check_mesh(experiment, mesh)
    check_run_directory(experiment, extend=extend)
    directory = open_run_directory(experiment)
    experiment = dataclasses.replace(experiment, run_dir=str(directory))
    with (
        lock_run_directory(directory),
        jax.set_mesh(mesh),
        Checkpoints(directory / CHECKPOINTS, experiment.checkpoint) as checkpoints,
        MetricsWriter(directory / METRICS_FILE) as writer,
        TensorBoard(directory) if experiment.tensorboard else nullcontext() as tensorboard,
    ):
        if heading:
            print(heading, flush=True)
        write_config(directory, experiment, dataset.tokenizer)
        return _run(experiment, mesh, dataset, directory, checkpoints, writer, tensorboard, stop)


def _run(
    experiment: Experiment,
    mesh: Mesh,
    dataset: Dataset,
    directory: Path,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    tensorboard: TensorBoard | None,
    stop: Stop | None,
) -> Result:
    train_batches = make_batches(dataset, "train", experiment)
    valid_batches = make_batches(dataset, "valid", experiment)
    optimizer = make_optimizer(experiment.optimizer, abstract_params(experiment.model))
    train_step = make_train_step(experiment, optimizer, mesh, train_batches.max_predictions)
    eval_step = make_eval_step(experiment, valid_batches.max_predictions)
    state, metadata = _restore_or_init(experiment, optimizer, mesh, dataset, checkpoints)
    first = int(state.step)

    with ProgressLine(first, experiment.steps) as progress:
        progress.say(_describe(experiment, mesh, dataset, directory, first))
        recorder = Recorder(
            experiment, mesh, writer, tensorboard, progress, metadata, train_batches.max_predictions
        )

        def save(step: int) -> None:
            recorder.flush()
            writer.sync()  # every row below a checkpoint's step is on disk before it commits
            checkpoints.save(step, state, recorder.metadata() | {"dataset": dataset.fingerprint})

        def evaluate_now(step: int) -> dict[str, float]:
            recorder.flush()
            metrics = evaluate(eval_step, state.params, valid_batches, experiment, mesh)
            recorder.write({"step": step, **metrics})
            recorder.restart_clock()
            return metrics

        if first and _evaluates_at(first, experiment):
            evaluate_now(first)  # a run that was stopped here had no time left for it
        for step, batch, data_seconds in read_ahead(train_batches, mesh, first, experiment.steps):
            state, metrics = train_step(state, batch)
            recorder.record(step, metrics, data_seconds)
            done = step + 1
            preempted = stop is not None and stop.requested
            if preempted or done % experiment.checkpoint.every == 0 or done == experiment.steps:
                save(done)
            if preempted:
                checkpoints.wait()
                progress.say(f"stopped after step {done}; the same command continues from {directory}")
                return Result(directory, done, True, {})
            if _evaluates_at(done, experiment):
                evaluated = evaluate_now(done)
                progress.say(f"step {done}: held-out loss {evaluated['eval_loss']:.3f}")
        evaluated = evaluate_now(experiment.steps)
        checkpoints.wait()
        compared = compare_with_counting(evaluated, experiment.objective, dataset.statistics["valid"])
        progress.say(describe_evaluation(compared))
        sample = sample_text(experiment, state.params, valid_batches, dataset.tokenizer, mesh)
        progress.say(f"\n{sample}\n\nsaved in {directory}")
    return Result(directory, experiment.steps, False, compared)


def _restore_or_init(
    experiment: Experiment, optimizer: Any, mesh: Mesh, dataset: Dataset, checkpoints: Checkpoints
) -> tuple[TrainState, dict[str, Any]]:
    latest = checkpoints.latest_step()
    if latest is None:
        return init_state(experiment.model, optimizer, mesh, experiment.seed), {}
    state, metadata = checkpoints.restore(latest, abstract_state(experiment.model, optimizer, mesh))
    check_same_data(experiment, metadata, dataset)
    return state, metadata


def _evaluates_at(step: int, experiment: Experiment) -> bool:
    """Whether an evaluation on the way is due after this many updates; the last comes at the end anyway."""
    every = experiment.eval_every
    return every is not None and step % every == 0 and step < experiment.steps


def _describe(experiment: Experiment, mesh: Mesh, dataset: Dataset, directory: Path, first: int) -> str:
    model = experiment.model
    axes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    num_tokens = dataset.statistics["train"]["num_tokens"]
    kinds = np.unique([device.device_kind for device in mesh.devices.flat])
    start = f"continues in {directory} at step {first} of" if first else f"trains in {directory} for"
    if first == experiment.steps:
        start = f"in {directory} has done all its"
    return (
        f"{experiment.name} {start} {experiment.steps} steps: "
        f"{short_number(count_params(model))} parameters, {model.num_layers} layers of {model.embed_dim}, "
        f"vocabulary {model.vocab_size}; {short_number(num_tokens)} tokens of text; "
        f"{', '.join(kinds)}: {axes}"
    )
