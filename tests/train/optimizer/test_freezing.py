"""What optimizer.freeze names stays as it is, costs no gradient and has no state; all else trains on."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_steps import ROWS, as_jax, random_rows, take_steps, tiny_model

from flaxmill.model.functional import abstract_params, count_params, init_params
from flaxmill.model.params import flatten, merge
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.checkpoint.manifest import join, named_leaves
from flaxmill.train.experiment import Experiment
from flaxmill.train.objectives.losses import combine, denominators, numerators
from flaxmill.train.optimizer.freezing import choose_trainable, count_trained, layer_numbers
from flaxmill.train.optimizer.optimizers import OptimizerConfig, make_optimizer
from flaxmill.train.state import abstract_state
from flaxmill.train.step import make_train_step

pytestmark = pytest.mark.slow

MODEL = tiny_model()
PARAMS = abstract_params(MODEL)
FROZEN = ("embed/*", "layers.0-1/*", "*/bias")
ADAMW = OptimizerConfig(learning_rate=0.01, freeze=FROZEN)


def names(paths):
    return {"/".join(path) for path in paths}


def test_nothing_is_frozen_without_a_pattern():
    chosen = choose_trainable((), PARAMS)
    assert chosen == (frozenset(), {})
    assert chosen.split(PARAMS) == (PARAMS, {})


def test_patterns_match_names_as_checkpoints_have_them_and_layers_of_any_group():
    all_names = names(flatten(PARAMS))
    of_layers = {name for name in all_names if "layers/" in name}
    assert names(choose_trainable(("layers/*",), PARAMS).frozen) == of_layers
    in_first = {name for name in of_layers if name.startswith("first_layers/")}
    assert names(choose_trainable(("first_layers/*",), PARAMS).frozen) == in_first
    one = choose_trainable(("embed/tokens/embedding",), PARAMS).frozen
    assert names(one) == {"embed/tokens/embedding"}
    biases = choose_trainable(("*/bias", "embed/*"), PARAMS).frozen
    assert names(biases) == {name for name in all_names if name.endswith("/bias") or "embed/" in name}


def test_numbers_count_layers_over_the_groups_of_a_stack():
    numbers = layer_numbers(PARAMS)
    groups = {path[0]: layers for path, layers in numbers.items()}
    assert groups == {"first_layers": range(1), "layers": range(1, 3), "last_layers": range(3, 4)}
    chosen = choose_trainable(("layers.1-3/mlp/*",), PARAMS)
    assert {path[:2] for path in chosen.frozen} == {("layers", "mlp"), ("last_layers", "mlp")}
    chosen = choose_trainable(("layers.0-1/mlp/up/kernel", "*layers.3/mlp/*"), PARAMS)
    assert ("first_layers", "mlp", "up", "kernel") in chosen.frozen
    assert ("last_layers", "mlp", "down", "bias") in chosen.frozen
    assert {"/".join(path): mask.tolist() for path, mask in chosen.layers.items()} == {
        "layers/mlp/up/kernel": [False, True]
    }


def test_layers_are_not_counted_where_only_some_have_experts():
    mixed = abstract_params(
        tiny_model(num_experts=2, moe_every=2, layer_pattern=(), first_attention_norm=True)
    )
    with pytest.raises(
        ValueError, match=r"freeze=layers\.0/\* counts layers by their depth.*moe_every=1"
    ) as error:
        choose_trainable(("layers.0/*",), mixed)
    assert "\n" not in str(error.value)
    assert all("dense" in path[0] for path in choose_trainable(("dense_layers/*",), mixed).frozen)
    same = abstract_params(tiny_model(num_experts=2, layer_pattern=(), first_attention_norm=True))
    frozen = choose_trainable(("layers.0-3/moe/*",), same).frozen
    assert {path[:2] for path in frozen} == {("layers", "moe")}


def test_each_stack_of_an_encoder_decoder_counts_its_own_layers():
    model = tiny_model(encoder_layers=2, num_layers=3, layer_pattern=(), first_attention_norm=True)
    params = abstract_params(model)
    chosen = choose_trainable(("encoder/layers.1/*",), params)
    assert {path[:2] for path in chosen.layers} == {("encoder", "layers")}
    assert {tuple(mask) for mask in chosen.layers.values()} == {(True, False)}
    both = choose_trainable(("*layers.2/*",), params)  # the encoder has no such layer
    assert {path[0] for path in both.layers} == {"layers"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("embd/*", "optimizer.freeze=embd/* matches no parameter; did you mean embed/*?"),
        ("layrs.0-2/*", "optimizer.freeze=layrs.0-2/* matches no parameter; did you mean"),
        (
            "layers.2-4/*",
            "optimizer.freeze=layers.2-4/* names layer 4, and the last is 3; layers count from 0",
        ),
        ("layers.2-1/*", "optimizer.freeze=layers.2-1/* names no layer; give the lower number first"),
        ("zzz", "optimizer.freeze=zzz matches no parameter; names are like "),
        ("*", "optimizer.freeze=* leaves nothing to train; freeze less"),
    ],
)
def test_a_pattern_that_fits_nothing_is_one_line(pattern, message):
    with pytest.raises(ValueError, match=r"^optimizer\.freeze=") as error:
        make_optimizer(OptimizerConfig(freeze=(pattern,)), PARAMS)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "lion", "muon"])
def test_the_optimizer_keeps_state_of_trained_arrays_alone(name):
    config = OptimizerConfig(name=name)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    whole = abstract_state(MODEL, make_optimizer(config, PARAMS), mesh)
    part = abstract_state(MODEL, make_optimizer(dataclasses.replace(config, freeze=FROZEN), PARAMS), mesh)
    assert part.params == whole.params
    kept, all_kept = named_leaves(part.optimizer), named_leaves(whole.optimizer)
    assert 0 < len(kept) < len(all_kept)
    assert all(all_kept[path] == leaf for path, leaf in kept.items())  # shapes and shardings
    gone = {join(path) for path in set(all_kept) - set(kept)}
    assert all("embed" in name or "first_layers" in name or name.endswith("bias") for name in gone), gone


@pytest.mark.parametrize(
    "name",
    [
        "adamw",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("lamb", "adafactor", "lion", "muon")),
    ],
)
def test_frozen_values_stay_bit_for_bit_and_others_move(name):
    taken = take_steps(MODEL, dataclasses.replace(ADAMW, name=name))
    chosen = choose_trainable(FROZEN, PARAMS)
    before, after = flatten(taken.before.params), flatten(taken.after.params)
    for path, old in before.items():
        if path in chosen.frozen:
            assert old.tobytes() == after[path].tobytes(), path
        elif path in chosen.layers:
            mask = chosen.layers[path]
            assert old[~mask].tobytes() == after[path][~mask].tobytes(), path
            assert (old[mask] != after[path][mask]).any(), path
        else:
            assert (old != after[path]).any(), path
    assert all(np.isfinite(step["loss"]) and not step["skipped"] for step in taken.metrics)


def test_a_frozen_negative_zero_keeps_its_sign():
    chosen = choose_trainable(("layers.1/*",), PARAMS)
    path = ("layers", "mlp", "up", "bias")
    old = {"layers": {"mlp": {"up": {"bias": jnp.full((2, 3), -0.0)}}}}
    new = jax.tree.map(lambda x: x + 0.0, old)
    held = flatten(chosen.hold(new, old))[path]
    assert np.signbit(held).tolist() == [[True] * 3, [False] * 3]


@pytest.mark.slow
def test_the_gradient_norm_is_of_what_is_trained():
    """torch's clip_grad_norm_ does the same: frozen weights have no gradient there."""
    taken = take_steps(MODEL, ADAMW)
    batch = as_jax(random_rows(0))

    def loss(params):
        sums = numerators("causal", MODEL, params, batch, max_predictions=None)
        return combine("causal", 0.0, sums, denominators("causal", batch))["loss"]

    chosen = choose_trainable(FROZEN, PARAMS)
    gradients = flatten(jax.jit(jax.grad(loss))(init_params(MODEL, jax.random.key(0))))
    total = 0.0
    for path, gradient in gradients.items():
        if path not in chosen.frozen:
            total += np.square(np.asarray(gradient, np.float64)[chosen.layers.get(path, slice(None))]).sum()
    assert taken.metrics[0]["grad_norm"] == pytest.approx(np.sqrt(total), rel=1e-5)


@pytest.mark.slow
def test_accumulation_changes_nothing():
    one = take_steps(MODEL, ADAMW).metrics[0]
    four = take_steps(MODEL, ADAMW, accumulate=4).metrics[0]
    assert four["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert four["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)


@pytest.mark.slow
def test_gradients_of_frozen_matrices_are_not_computed():
    """A matrix product costs three: itself, and the gradients of its input and of its matrix."""

    def flops(freeze):
        model = tiny_model(scan_layers=False, mlp_dim=256)
        optimizer_config = OptimizerConfig(freeze=freeze)
        experiment = Experiment(model=model, optimizer=optimizer_config, batch_size=ROWS)
        optimizer = make_optimizer(optimizer_config, abstract_params(model))
        mesh = make_mesh(MeshConfig(data=1))
        step = make_train_step(experiment, optimizer, mesh, None)
        with jax.set_mesh(mesh):
            state = abstract_state(model, optimizer, mesh)
            compiled: Any = step.lower(state, as_jax(random_rows(0))).compile()
        return compiled.cost_analysis()["flops"]

    assert flops(("layers/*",)) < 0.75 * flops(())


@pytest.mark.slow
def test_bfloat16_freezes_alike():
    model = tiny_model(dtype="bfloat16")
    taken = take_steps(model, OptimizerConfig(freeze=("layers.0-1/*",)), num_steps=2)
    for path, old in flatten(taken.before.params).items():
        if path[0] == "first_layers":
            assert old.tobytes() == flatten(taken.after.params)[path].tobytes()


@pytest.mark.slow
def test_a_mesh_of_eight_trains_the_same():
    one = take_steps(MODEL, ADAMW)
    eight = take_steps(MODEL, ADAMW, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    for mine, other in zip(eight.metrics, one.metrics, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)
    chosen = choose_trainable(FROZEN, PARAMS)
    for path, value in flatten(eight.after.params).items():
        if path in chosen.frozen:
            assert value.tobytes() == flatten(one.after.params)[path].tobytes()


def test_trained_parameters_are_counted():
    assert count_trained((), MODEL) == count_params(MODEL)
    assert count_trained(("embed/*",), MODEL) == count_params(MODEL) - 101 * 16
    only_last = count_trained(("embed/*", "layers.0-2/*", "final_norm/*"), MODEL)
    assert only_last == sum(leaf.size for leaf in jax.tree.leaves(PARAMS["last_layers"]))
    half = count_trained(("layers.1/*",), MODEL)
    assert half == count_params(MODEL) - sum(leaf.size for leaf in jax.tree.leaves(PARAMS["layers"])) // 2


def test_parts_of_a_tree_come_together_again():
    trained, frozen = choose_trainable(FROZEN, PARAMS).split(PARAMS)
    assert flatten(trained).keys().isdisjoint(flatten(frozen))
    assert merge(trained, frozen) == PARAMS


@pytest.mark.slow
def test_a_run_says_what_it_trains_and_refuses_a_pattern_before_it_begins(make_experiment, capsys):
    from flaxmill.train import train

    experiment = make_experiment(steps=2, optimizer=OptimizerConfig(freeze=("embd/*",)))
    with pytest.raises(ValueError, match=r"did you mean embed/\*\?"):
        train(experiment)
    assert experiment.run_dir is not None
    assert not Path(experiment.run_dir).exists()
    train(dataclasses.replace(experiment, optimizer=OptimizerConfig(freeze=("embed/*", "layers.0/*"))))
    assert " parameters (12.8k trained), 2 layers of 32" in capsys.readouterr().out
