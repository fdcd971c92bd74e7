"""What is part of a run's programs, and what they are given."""

import dataclasses

import jax
import numpy as np
import pytest

from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.compilation.abstract_batch import abstract_batch
from flaxmill.train.compilation.compiled_step import resolve_without_tokenizer
from flaxmill.train.compilation.programs import make_programs
from flaxmill.train.state import abstract_state


@pytest.mark.parametrize("mesh", [MeshConfig(data=1), MeshConfig(data=2, fsdp=2, tensor=2)])
@pytest.mark.parametrize(
    "change",
    [dict(seed=7), dict(steps=90), dict(optimizer=dict(learning_rate=0.3, warmup_fraction=0.5))],
    ids=["seed", "steps", "learning_rate"],
)
def test_a_changed_number_needs_no_other_program(change, mesh, make_experiment):
    experiment = make_experiment(mesh=mesh, model={"dropout": 0.1})
    if "optimizer" in change:
        change = {"optimizer": dataclasses.replace(experiment.optimizer, **change["optimizer"])}

    def texts(experiment):
        experiment, on_mesh = resolve_without_tokenizer(experiment), make_mesh(mesh)
        programs = make_programs(experiment, on_mesh)
        with jax.set_mesh(on_mesh):
            state = abstract_state(experiment.model, programs.optimizer, on_mesh)
            step = programs.train_step.lower(state, abstract_batch(experiment, on_mesh).arrays, None)
            return programs.init.lower().as_text(), step.as_text()

    assert texts(experiment) == texts(dataclasses.replace(experiment, **change))


def test_each_seed_draws_its_own_weights(make_experiment):
    mesh = make_mesh(MeshConfig(data=1))

    def draw(seed):
        experiment = resolve_without_tokenizer(make_experiment(seed=seed))
        with jax.set_mesh(mesh):
            return np.asarray(jax.tree.leaves(make_programs(experiment, mesh).init().params)[0])

    largest = 2**32 - 1
    drawn = {seed: draw(seed) for seed in (0, 1, largest)}
    assert np.array_equal(drawn[largest], draw(largest))
    assert len({array.tobytes() for array in drawn.values()}) == len(drawn)
