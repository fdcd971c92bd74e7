"""Where a run starts from: its newest whole checkpoint, or fresh weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import optax
from jax.sharding import Mesh

from flaxmill.data.prepared.dataset import Dataset
from flaxmill.model.params import Params
from flaxmill.train.best import find_best_step
from flaxmill.train.checkpoint.checkpoints import PARAMS, Checkpoints
from flaxmill.train.experiment import Experiment
from flaxmill.train.metrics.metrics_file import read_metrics
from flaxmill.train.metrics.progress import warn
from flaxmill.train.run.directory import CHECKPOINTS, IMPORTED_STEP, METRICS_FILE
from flaxmill.train.run.initial_weights import initial_params
from flaxmill.train.run.provenance import describe_other_data
from flaxmill.train.state import TrainState, abstract_state, init_state, placed_params, start_state


class Start(NamedTuple):
    """The state to train from, its checkpoint's metadata and step; {} and None where it is fresh."""

    state: TrainState
    metadata: dict[str, Any]
    checkpoint_step: int | None


def restore_or_init(
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    dataset: Dataset,
    checkpoints: Checkpoints,
    *,
    allow_other_data: bool,
    only_scheduled: bool = False,
    warn: Callable[[str], None],
) -> Start:
    """The newest checkpoint that is whole, on the mesh; without any, a fresh state or that of `init_from`.

    Args:
      allow_other_data: continue on a dataset that is not the checkpoint's, with a warning.
      only_scheduled: pass over checkpoints that were not due by steps, as of a preemption.
      warn: is told of damaged checkpoints that were passed over.

    Raises:
      ValueError: the checkpoint was trained on other data.
      CheckpointError: none is whole, or it does not fit the experiment.
    """
    wanted = abstract_state(experiment.model, optimizer, mesh)

    def load(step: int) -> Start:
        if step == IMPORTED_STEP:
            params = checkpoints.restore_params(step, wanted.params)
            return Start(start_state(experiment.model, optimizer, mesh, params), {}, step)
        metadata = checkpoints.metadata(step)
        if other := describe_other_data(metadata, dataset):
            if not allow_other_data:
                raise ValueError(
                    f"{experiment.run_dir} {other}; restore the data, give another --run-dir, or continue on "
                    "the new data with --allow-other-data"
                )
            warn(f"{experiment.run_dir} {other}")
        return Start(*checkpoints.restore(step, wanted), step)

    every = experiment.checkpoint.every
    newest = checkpoints.load_newest(load, warn, only=(lambda s: s % every == 0) if only_scheduled else None)
    if newest is not None:
        return newest
    if experiment.init_from is not None:
        params = initial_params(experiment, mesh, dataset.tokenizer, warn)
        # Kept, since the other run may train on, and this one shall begin alike if it begins again.
        checkpoints.save(IMPORTED_STEP, {PARAMS: params}, {"init_from": experiment.init_from})
        checkpoints.wait()
        return Start(start_state(experiment.model, optimizer, mesh, params), {}, IMPORTED_STEP)
    return Start(init_state(experiment.model, optimizer, mesh, experiment.seed), {}, None)


def load_params(
    run: Path, experiment: Experiment, mesh: Mesh, step: int | None = None
) -> tuple[Params, dict[str, Any], int]:
    """Parameters of the checkpoint of `step` on the mesh; its metadata and step.

    Args:
      step: None: that of the best evaluation, if the run follows one, else the newest whole one.

    Raises:
      ValueError: there is no such checkpoint.
      CheckpointError: it is damaged, or is not of this experiment.
    """
    wanted = placed_params(experiment.model, mesh)
    with Checkpoints(run / CHECKPOINTS, experiment.checkpoint, read_only=True) as checkpoints:
        steps = checkpoints.steps()
        if not steps:
            raise ValueError(f"{run} holds no checkpoint yet; train it first, or wait for its first save")
        if step is None:
            step = find_best_step(experiment.best, read_metrics(run / METRICS_FILE), steps)
        if step is not None and step not in steps:
            raise ValueError(f"{run} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")

        def load(step: int) -> tuple[Params, dict[str, Any], int]:
            return checkpoints.restore_params(step, wanted), checkpoints.metadata(step), step

        loaded = checkpoints.load_newest(load, warn) if step is None else load(step)
    assert loaded is not None, "there are steps"
    return loaded
