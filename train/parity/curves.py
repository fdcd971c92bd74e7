"""Trains small models twice from equal weights on equal batches: with flaxmill's step, and with PyTorch."""

import dataclasses
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxmill.model.config import ModelConfig
from flaxmill.model.huggingface.directory import load_huggingface
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.experiment import Experiment
from flaxmill.train.objectives.table import objective_for
from flaxmill.train.optimizer.optimizers import OptimizerConfig, make_optimizer
from flaxmill.train.optimizer.schedule import make_schedule
from flaxmill.train.parity.batches import ParityBatch, make_parity_batch, row_length
from flaxmill.train.parity.small_models import SMALL, make_reference
from flaxmill.train.parity.torch_side import load_reference, make_reference_step
from flaxmill.train.state import TrainState
from flaxmill.train.step import make_train_step

NUM_BATCHES = 4  # seen again and again, so that there is something to learn
OPTIMIZER = OptimizerConfig(learning_rate=3e-3, beta2=0.999, weight_decay=0.1, schedule="cosine")


class Curves(NamedTuple):
    """The loss before each step."""

    ours: list[float]
    theirs: list[float]

    def largest_relative_difference(self) -> float:
        return max(abs(a - b) / abs(b) for a, b in zip(self.ours, self.theirs, strict=True))


def training_curves(name: str, variant: str, num_steps: int) -> Curves:
    """Train SMALL[name] for `num_steps` AdamW steps, with warm-up and decay, on batches of this variant."""
    with tempfile.TemporaryDirectory() as directory:
        make_reference(name, directory)
        config, params = load_huggingface(directory)
        reference = load_reference(Path(directory), SMALL[name].architecture, "float32")
    config = dataclasses.replace(config, dropout=0.0, attention_dropout=None)
    batches = [make_parity_batch(config, variant, seed) for seed in range(NUM_BATCHES)]
    experiment = _experiment(config, num_steps)
    schedule = make_schedule(OPTIMIZER, num_steps)
    step = make_reference_step(reference, OPTIMIZER)
    theirs = [step(batches[n % NUM_BATCHES], float(schedule(n))) for n in range(num_steps)]
    return Curves(_train(experiment, params, batches), theirs)


def _experiment(config: ModelConfig, num_steps: int) -> Experiment:
    objective = objective_for(config.head)
    assert objective is not None, "small models have heads that objectives train"
    return Experiment(
        name="parity",
        objective=objective,
        steps=num_steps,
        model=config,
        optimizer=OPTIMIZER,
        mesh=MeshConfig(data=1),
    )


def _train(experiment: Experiment, params: dict, batches: list[ParityBatch]) -> list[float]:
    """The losses of the very step that `flaxmill train` compiles."""
    mesh = make_mesh(experiment.mesh)
    optimizer = make_optimizer(experiment.optimizer, params)
    max_predictions = None if experiment.model.causal else row_length(experiment.model)
    rows = [{name: jnp.asarray(value) for name, value in batch.ours.items()} for batch in batches]
    losses = []
    with jax.set_mesh(mesh):
        step = make_train_step(experiment, optimizer, mesh, max_predictions)
        state = TrainState(params, optimizer.init(params), jnp.int32(0), jnp.int32(0))
        for number in range(experiment.steps):
            state, metrics = step(state, rows[number % len(rows)])
            losses.append(float(metrics["loss"]))
    return losses
