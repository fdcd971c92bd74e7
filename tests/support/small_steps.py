"""A few training steps of a tiny model on random rows, without data, files or the loop."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import abstract_params
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.sharding.placement import place_parts
from flaxmill.train.experiment import Experiment
from flaxmill.train.optimizer.optimizers import OptimizerConfig, make_optimizer
from flaxmill.train.run.mesh_fit import check_mesh, in_zigzag
from flaxmill.train.state import TrainState, init_state, state_shardings
from flaxmill.train.step import make_train_step

ROWS, TOKENS, VOCABULARY = 8, 12, 101


class Taken(NamedTuple):
    """Host states before and after the steps, and each step's metrics; shared, so do not change them."""

    before: TrainState
    after: TrainState
    metrics: list[dict[str, Any]]


def tiny_model(**changes: Any) -> ModelConfig:
    """A causal GPT whose stack has all three groups of layers: 1 first, 2 in a period, 1 last."""
    fields: dict[str, Any] = dict(
        vocab_size=VOCABULARY,
        max_positions=TOKENS,
        num_layers=4,
        embed_dim=16,
        num_heads=4,
        causal=True,
        head="lm",
        positions="rotary",
        first_attention_norm=False,
        layer_pattern=("global", "local"),
        window=4,
    )
    return ModelConfig(**fields | changes)


@functools.cache  # most of the time is compiling
def take_steps(
    model: ModelConfig,
    optimizer: OptimizerConfig,
    num_steps: int = 3,
    *,
    mesh: MeshConfig | None = None,
    make_rows: Callable[[int], dict[str, np.ndarray]] | None = None,
    max_predictions: int | None = None,
    **changes: Any,
) -> Taken:
    """Train the model, fresh from seed 0, on random rows, or those that a function makes of a seed."""
    make_rows = make_rows or random_rows
    experiment = Experiment(
        model=model,
        optimizer=optimizer,
        mesh=mesh or MeshConfig(data=1),
        batch_size=ROWS,
        steps=max(8, num_steps),
        data=DataConfig(sequence_length=make_rows(0)["tokens"].shape[1]),
    )
    experiment = dataclasses.replace(experiment, **changes)
    on_mesh = make_mesh(experiment.mesh)
    check_mesh(experiment, on_mesh)
    transformation = make_optimizer(optimizer, abstract_params(model))
    step = make_train_step(experiment, transformation, on_mesh, max_predictions)
    zigzag, metrics = in_zigzag(experiment), []
    with jax.set_mesh(on_mesh):
        before = _fresh(model, optimizer)
        # Copied, since the step writes its results where the state was.
        state = jax.device_put(before, state_shardings(model, transformation, on_mesh), may_alias=False)
        for number in range(num_steps):
            state, found = step(state, place_parts(on_mesh, [make_rows(number)], ROWS, zigzag=zigzag))
            metrics.append({name: value.tolist() for name, value in found.items()})
    return Taken(before, jax.tree.map(np.array, state), metrics)


@functools.cache  # one program makes it for all meshes
def _fresh(model: ModelConfig, optimizer: OptimizerConfig) -> TrainState:
    transformation = make_optimizer(optimizer, abstract_params(model))
    state = init_state(model, transformation, make_mesh(MeshConfig(data=1)), seed=0)
    return jax.tree.map(np.array, state)


def random_rows(seed: int) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(seed).integers(1, VOCABULARY, (ROWS, TOKENS + 1)).astype(np.int32)
    ones = np.ones((ROWS, TOKENS), np.int32)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": ones.astype(np.float32),
        "mask": ones,
        "documents": ones,
        "positions": np.broadcast_to(np.arange(TOKENS, dtype=np.int32), ones.shape).copy(),
    }


def as_jax(rows: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value) for name, value in rows.items()}
