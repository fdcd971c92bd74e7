"""One update: the same however the batch is cut up, and none at all where it is not finite."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxmill.data.preparation.cache import prepare
from flaxmill.model import abstract_params
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.sharding.placement import place_rows
from flaxmill.train.caches import cache_directory, enable_compilation_cache
from flaxmill.train.input_pipeline import make_batches
from flaxmill.train.optimizer.optimizers import OptimizerConfig, make_optimizer
from flaxmill.train.resolution import resolve
from flaxmill.train.state import TrainState, init_state
from flaxmill.train.step import make_eval_step, make_train_step

pytestmark = pytest.mark.slow

# The updates are the raw gradients, magnified so that nothing is lost in adding them to the weights.
MAGNIFIED = OptimizerConfig(learning_rate=1e4, schedule="constant", warmup_fraction=0, clip_norm=None)


class Trial(NamedTuple):
    """An experiment ready to take steps."""

    experiment: Any
    mesh: Any
    state: TrainState
    step: Any
    rows: dict[str, np.ndarray]

    def place(self, rows):
        return place_rows(self.mesh, rows, len(rows["tokens"]))


@pytest.fixture
def make_trial(make_experiment):
    """(objective, gradients_only=False, **changes of the experiment) -> Trial"""

    def make(objective="causal", gradients_only=False, mesh=None, model=None, **changes):
        cache = cache_directory()
        enable_compilation_cache(cache)
        model = {"num_layers": 1} | (model or {})
        experiment = make_experiment(objective, model=model, mesh=mesh or MeshConfig(data=1), **changes)
        dataset = prepare(experiment.data, objective, cache=cache, log=lambda line: None)
        experiment = resolve(experiment, dataset.tokenizer)
        batches = make_batches(dataset, "train", experiment)
        optimizer = make_optimizer(experiment.optimizer, abstract_params(experiment.model))
        optimizer = optax.scale(-1.0) if gradients_only else optimizer
        on_mesh = make_mesh(experiment.mesh)
        state = init_state(experiment.model, optimizer, on_mesh, experiment.seed)
        step = make_train_step(experiment, optimizer, on_mesh, batches.max_predictions)
        return Trial(experiment, on_mesh, state, step, batches.batch(0))

    return make


def on_host(tree):
    return jax.tree.map(np.array, tree)


def run(trial, rows=None):
    """One step on copies of the state: new state and metrics as NumPy arrays."""
    with jax.set_mesh(trial.mesh):
        state = jax.tree.map(jnp.copy, trial.state)
        state, metrics = trial.step(state, trial.place(trial.rows if rows is None else rows))
    return on_host(state), {name: value.item() for name, value in metrics.items()}


def with_unequal_rows(rows):
    """Row r keeps some 2^-(r mod 5) of its tokens, and one row none at all."""
    num_rows, num_tokens = rows["tokens"].shape
    kept = num_tokens // 2 ** (np.arange(num_rows) % 5)
    kept[3] = 0
    real = np.arange(num_tokens) < kept[:, None]
    cut = {name: rows[name] * real.astype(rows[name].dtype) for name in ("mask", "documents", "weights")}
    return rows | cut


@pytest.mark.parametrize("objective", ["causal", "mlm_nsp", "hybrid"])
def test_accumulation_equals_the_large_batch_with_unequal_rows(make_trial, objective):
    options = dict(gradients_only=True, model={"dropout": 0.0}, optimizer=MAGNIFIED)
    plain = make_trial(objective, **options)
    accumulated = make_trial(objective, accumulate=4, **options)
    rows = with_unequal_rows(plain.rows)
    (state, metrics), (state_4, metrics_4) = run(plain, rows), run(accumulated, rows)
    assert rows["weights"].sum(1).min() == 0
    assert metrics["loss"] > 1
    # Sums of the same float32 terms in another order.
    assert metrics_4["loss"] == pytest.approx(metrics["loss"], rel=1e-6)
    assert metrics_4["grad_norm"] == pytest.approx(metrics["grad_norm"], rel=1e-5)
    assert metrics_4["num_tokens"] == metrics["num_tokens"] == rows["mask"].sum()
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(state.params))
    for one, other in zip(jax.tree.leaves(state_4.params), jax.tree.leaves(state.params), strict=True):
        # A key bias has a true gradient of zero: its rounding errors are compared with the other gradients.
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize(("dropout", "same"), [(0.0, True), (0.3, False)])
def test_every_microbatch_draws_its_own_dropout(make_trial, dropout, same):
    """The same rows in two microbatches, with the loss taken from one or from the other."""
    trial = make_trial(accumulate=2, model={"dropout": dropout})
    rows = {name: np.repeat(value[:8], 2, axis=0) for name, value in trial.rows.items()}
    losses = []
    for microbatch in range(2):  # a microbatch has every second row
        counted = (np.arange(16) % 2 == microbatch)[:, None]
        losses.append(run(trial, rows | {"weights": rows["weights"] * np.float32(counted)})[1]["loss"])
    assert (losses[0] == losses[1]) == same


def test_a_step_that_is_not_finite_leaves_weights_and_optimizer_bit_for_bit(make_trial):
    trial = make_trial()
    started = on_host(trial.state)
    rows = trial.rows | {"weights": trial.rows["weights"].copy()}
    rows["weights"][5, 7] = np.nan
    state, metrics = run(trial, rows)
    assert metrics["skipped"]
    assert not np.isfinite(metrics["loss"])
    for one, other in zip(jax.tree.leaves(state[:2]), jax.tree.leaves(started[:2]), strict=True):
        assert one.tobytes() == other.tobytes()
    assert (int(state.step), int(state.skipped)) == (1, 1)
    kept, metrics = run(trial)
    assert not metrics["skipped"]
    assert (int(kept.step), int(kept.skipped)) == (1, 0)
    moved = [
        (one != other).any()
        for one, other in zip(jax.tree.leaves(kept.params), jax.tree.leaves(started.params), strict=True)
    ]
    assert all(moved)


def test_an_infinite_gradient_is_skipped_though_the_loss_is_finite(make_trial):
    """Huge weights cancel: the loss can be represented, the squares in the norm of gradients cannot."""
    trial = make_trial()
    started = on_host(trial.state)
    signs = np.where(np.arange(16) % 2, -1, 1)[:, None] * trial.rows["mask"]
    state, metrics = run(trial, trial.rows | {"weights": np.float32(2.0**83 * signs)})
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["grad_norm"])
    assert metrics["skipped"]
    for one, other in zip(jax.tree.leaves(state[:2]), jax.tree.leaves(started[:2]), strict=True):
        assert one.tobytes() == other.tobytes()


def test_gradients_are_clipped_to_the_global_norm_and_reported_unclipped(make_trial):
    options = dict(gradients_only=True, model={"dropout": 0.0})
    norm_of = {}
    for clip_norm in (None, 0.25):
        trial = make_trial(optimizer=dataclasses.replace(MAGNIFIED, clip_norm=clip_norm), **options)
        state, metrics = run(trial)
        taken = jax.tree.map(lambda new, old: (old - new) / 1e4, state.params, on_host(trial.state.params))
        squares = sum(float((leaf.astype(np.float64) ** 2).sum()) for leaf in jax.tree.leaves(taken))
        norm_of[clip_norm] = (metrics["grad_norm"], squares**0.5)
    reported, taken = norm_of[None]
    assert reported > 0.25
    assert taken == pytest.approx(reported, rel=1e-4)  # 1e4 times the gradient, rounded beside the weights
    assert norm_of[0.25] == (reported, pytest.approx(0.25, rel=1e-4))


LEARNING_RATES = {"adamw": 1e-2, "lamb": 3e-2, "adafactor": 1e-1, "lion": 3e-3, "muon": 1e-2}


@pytest.mark.parametrize("name", LEARNING_RATES)
def test_every_optimizer_lowers_the_loss_of_a_repeated_batch(make_trial, name):
    optimizer = OptimizerConfig(name=name, learning_rate=LEARNING_RATES[name], schedule="constant")
    trial = make_trial(optimizer=optimizer, model={"dropout": 0.0}, batch_size=4)
    state, batch, losses = trial.state, trial.place(trial.rows), []
    with jax.set_mesh(trial.mesh):
        for _ in range(12):
            state, metrics = trial.step(state, batch)
            losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.5
    assert int(state.skipped) == 0
    assert int(state.step) == 12


def test_dropout_differs_from_step_to_step_and_not_from_run_to_run(make_trial):
    trial = make_trial(model={"dropout": 0.3})
    first, again = run(trial)[1], run(trial)[1]
    later = trial._replace(state=trial.state._replace(step=jnp.int32(1)))
    assert first == again
    assert run(later)[1]["loss"] != first["loss"]


def test_the_new_state_lives_where_the_old_one_did(make_trial):
    trial = make_trial(mesh=MeshConfig(data=2, fsdp=2, tensor=2), accumulate=2)
    places = [leaf.sharding for leaf in jax.tree.leaves(trial.state)]
    with jax.set_mesh(trial.mesh):
        state, _ = trial.step(trial.state, trial.place(trial.rows))
    for leaf, place in zip(jax.tree.leaves(state), places, strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)


def test_the_evaluation_step_drops_nothing_and_agrees_with_training(make_trial):
    trial = make_trial(model={"dropout": 0.0})
    dropping = make_trial(model={"dropout": 0.5}).experiment
    losses = []
    for experiment in (trial.experiment, dropping):
        evaluate = make_eval_step(experiment, trial.mesh, None)
        sums, weights, _ = evaluate(trial.state.params, trial.place(trial.rows))
        losses.append(float(sums["causal"] / weights["causal_weight"]))
    assert losses[0] == losses[1] == pytest.approx(run(trial)[1]["loss"], rel=1e-6)
