"""Where a run starts: from its newest whole checkpoint, the weights of another model, or fresh weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import optax
from jax.sharding import Mesh

from flaxmill.data.mixture.mixed_dataset import AnyDataset
from flaxmill.model.params import Params
from flaxmill.train.best import find_best_step
from flaxmill.train.checkpoint.checkpoints import Checkpoints
from flaxmill.train.checkpoint.store import PARAMS
from flaxmill.train.checkpoint.stored import StoredCheckpoint
from flaxmill.train.experiment import Experiment
from flaxmill.train.metrics.metrics_file import read_metrics
from flaxmill.train.metrics.progress import warn
from flaxmill.train.run.directory import CHECKPOINTS, IMPORTED_STEP, METRICS_FILE
from flaxmill.train.run.initial_weights import initial_params
from flaxmill.train.run.provenance import describe_other_data, describe_other_masks
from flaxmill.train.state import TrainState, abstract_state, placed_params, start_state


class Start(NamedTuple):
    """The state to train from, its checkpoint's metadata and step; {} and None where it is fresh."""

    state: TrainState
    metadata: dict[str, Any]
    checkpoint_step: int | None


class Origin(NamedTuple):
    """What decides where a run starts: its checkpoints, the model it is initialised from, or a fresh one."""

    experiment: Experiment
    optimizer: optax.GradientTransformation
    init: Callable[[], TrainState]
    """Draws fresh weights, and begins the optimizer's state."""
    mesh: Mesh
    dataset: AnyDataset
    checkpoints: Checkpoints
    allow_other_data: bool
    """Continue on a dataset that is not the checkpoint's, with a warning."""
    warn: Callable[[str], None]
    """Is told of damaged checkpoints that were passed over, and of other data."""

    def start(self, *, only_scheduled: bool = False) -> Start:
        """The state to train from: on the mesh, and in this order

          1. the newest checkpoint that is whole;
          2. the checkpoint of step 0 that an import, or an earlier start from `init_from`, has left;
          3. the weights of `init_from`, kept as the checkpoint of step 0;
          4. fresh weights, drawn from the seed.

        Args:
          only_scheduled: pass over checkpoints that were not due by steps, such as a preemption's.

        Raises:
          ValueError: the checkpoint was trained on other data.
          CheckpointError: none is whole, or it does not fit the experiment.
        """
        experiment, every = self.experiment, self.experiment.checkpoint.every
        only = (lambda step: step % every == 0) if only_scheduled else None
        if newest := self.checkpoints.load_newest(self._from_checkpoint, self.warn, only=only):
            return newest
        if experiment.init_from is not None:
            params = initial_params(experiment, self.mesh, self.dataset.tokenizer, self.warn)
            # Copied, because the other run may train on and this one must start the same way if it starts
            # again.
            self.checkpoints.save(IMPORTED_STEP, {PARAMS: params}, {"init_from": experiment.init_from})
            start = self._from_params(params)  # while it is written
            self.checkpoints.wait()
            return start
        return Start(self.init(), {}, None)

    def initial_params(self) -> Params | None:
        """The weights that the run began with, where the checkpoint of step 0 is still there."""
        if IMPORTED_STEP not in self.checkpoints.steps():
            return None
        stored = self.checkpoints.open(IMPORTED_STEP)
        return stored.restore_params(placed_params(self.experiment.model, self.mesh))

    def _from_checkpoint(self, stored: StoredCheckpoint) -> Start:
        wanted = abstract_state(self.experiment.model, self.optimizer, self.mesh)
        if stored.step == IMPORTED_STEP:
            return self._from_params(stored.restore_params(wanted.params))
        if other := describe_other_data(stored.metadata, self.dataset):
            if not self.allow_other_data:
                raise ValueError(
                    f"{self.experiment.run_dir} {other}; restore the data, give another --run-dir, or "
                    "continue on the new data with --allow-other-data"
                )
            self.warn(f"{self.experiment.run_dir} {other}")
        if other := describe_other_masks(stored.metadata, self.experiment):
            self.warn(f"{self.experiment.run_dir} {other}")
        return Start(stored.restore(wanted), stored.metadata, stored.step)

    def _from_params(self, params: Params) -> Start:
        state = start_state(self.experiment.model, self.optimizer, self.mesh, params)
        return Start(state, {}, IMPORTED_STEP)


def load_params(
    run: Path, experiment: Experiment, mesh: Mesh, step: int | None = None
) -> tuple[Params, dict[str, Any], int]:
    """Parameters of the checkpoint of `step` on the mesh; its metadata and step.

    Args:
      step: None: the step of the best evaluation if the run follows one, else the newest whole checkpoint.

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

        def load(stored: StoredCheckpoint) -> tuple[Params, dict[str, Any], int]:
            return stored.restore_params(wanted), stored.metadata, stored.step

        loaded = checkpoints.load_newest(load, warn) if step is None else load(checkpoints.open(step))
    assert loaded is not None, "there are steps"
    return loaded
