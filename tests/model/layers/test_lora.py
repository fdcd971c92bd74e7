"""LoRA begins as the base model, trains adapters alone, and ends as one matrix again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_steps import as_jax, random_rows, take_steps, tiny_model

from flaxmill.model.adapters import merge_lora, with_fresh_adapters
from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import abstract_params, apply, count_params, init_params
from flaxmill.model.layers.lora import is_adapter, with_lora_of, without_lora
from flaxmill.model.params import flatten, names_of
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.checkpoint.manifest import join, named_leaves
from flaxmill.train.experiment import Experiment
from flaxmill.train.optimizer.freezing import choose_trainable
from flaxmill.train.optimizer.optimizers import OptimizerConfig, make_optimizer
from flaxmill.train.overrides import override
from flaxmill.train.state import abstract_state, param_shardings

pytestmark = pytest.mark.slow

TARGETS = ("query", "key", "value", "out", "up", "gate", "down")
BASE = tiny_model(gated_mlp=True, num_kv_heads=2)
LORA = dataclasses.replace(BASE, lora_rank=2, lora_alpha=6.0, lora_targets=TARGETS)
ONE_GROUP = dataclasses.replace(LORA, first_attention_norm=True, layer_pattern=(), num_layers=2)
ENCODER_DECODER = tiny_model(
    encoder_layers=2,
    num_layers=1,
    layer_pattern=(),
    first_attention_norm=True,
    lora_rank=2,
    lora_targets=("value", "out"),
)
BATCH = as_jax(random_rows(0))
ADAMW = OptimizerConfig(learning_rate=0.03)


def with_values(config: ModelConfig):
    """Parameters with adapters that change the outputs."""
    params = init_params(config, jax.random.key(0))
    random = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.Array) -> jax.Array:
        return (
            jnp.asarray(random.normal(0, 0.1, leaf.shape), jnp.float32)
            if is_adapter(names_of(path))
            else leaf
        )

    return jax.tree_util.tree_map_with_path(draw, params)


def test_it_begins_as_exactly_the_base_model():
    key, base_config = jax.random.key(3), without_lora(ONE_GROUP)
    base, params = init_params(base_config, key), init_params(ONE_GROUP, key)
    kept = {path: leaf for path, leaf in flatten(params).items() if not is_adapter(path)}
    assert kept.keys() == flatten(base).keys()
    jax.tree.map(np.testing.assert_array_equal, kept, flatten(base))
    expected = apply(base_config, base, BATCH)["logits"]
    np.testing.assert_array_equal(apply(ONE_GROUP, params, BATCH)["logits"], expected)


def test_factors_stand_beside_every_projection_named():
    flat = flatten(abstract_params(LORA))
    for group, depth in (("first_layers", 1), ("layers", 2), ("last_layers", 1)):
        assert flat[group, "attention", "query", "lora_a"].shape == (depth, 16, 2)
        assert flat[group, "attention", "key", "lora_b"].shape == (depth, 2, 2, 4)
        assert flat[group, "attention", "out", "lora_a"].shape == (depth, 4, 4, 2)
        assert flat[group, "mlp", "down", "lora_a"].shape == (depth, 64, 2)
    assert sum(is_adapter(path) for path in flat) == 3 * len(TARGETS) * 2
    a = flatten(init_params(LORA, jax.random.key(0)))["layers", "mlp", "down", "lora_a"]
    assert 0.9 / 8 < jnp.abs(a).max() <= 1 / 8  # 1 / sqrt(64)
    assert not (a[0] == a[1]).any()


def test_without_targets_they_are_those_of_the_paper():
    flat = flatten(abstract_params(tiny_model(lora_rank=1)))
    assert {path[-2] for path in flat if is_adapter(path)} == {"query", "value"}


def test_targets_can_be_given_on_the_command_line():
    flags = ["--model.lora-rank", "4", "--model.lora-targets", "key", "--model.lora-targets", "up"]
    flags += ["--optimizer.freeze", "embed/*", "--optimizer.freeze", "layers.0-1/*"]
    found = override(Experiment(), flags, program="train", usage="", description="")
    assert (found.model.lora_rank, found.model.lora_targets) == (4, ("key", "up"))
    assert found.optimizer.freeze == ("embed/*", "layers.0-1/*")


def test_an_encoder_decoder_has_adapters_in_both_stacks_and_between_them():
    flat = flatten(abstract_params(ENCODER_DECODER))
    found = {path[:-2] for path in flat if is_adapter(path)}
    assert found == {
        ("encoder", "layers", "attention"),
        ("layers", "attention"),
        ("layers", "cross_attention"),
    }


def test_parameters_are_counted():
    per_layer = sum(2 * (inside + outside) for inside, outside in [(16, 16), (16, 8), (16, 8), (16, 16)])
    per_layer += sum(2 * (16 + 64) for _ in range(3))
    assert count_params(LORA) - count_params(BASE) == 4 * per_layer


@pytest.mark.parametrize("config", [LORA, ENCODER_DECODER], ids=["decoder", "encoder-decoder"])
def test_merged_equals_unmerged(config):
    params = with_values(config)
    batch = BATCH | ({} if config.encoder_layers is None else {"decoder_tokens": BATCH["targets"]})
    base, merged = merge_lora(config, params)
    assert base == without_lora(config)
    assert flatten(merged).keys() == flatten(abstract_params(base)).keys()
    unmerged = apply(config, params, batch)["logits"]
    np.testing.assert_allclose(apply(base, merged, batch)["logits"], unmerged, rtol=0, atol=1e-5)
    plain = init_params(base, jax.random.key(0))
    assert jnp.abs(apply(base, plain, batch)["logits"] - unmerged).max() > 1e-3


def test_merging_without_adapters_changes_nothing():
    params = init_params(BASE, jax.random.key(0))
    assert merge_lora(BASE, params) == (BASE, params)


def test_gradients_are_those_of_the_product():
    """The gradients of A and B in W + s A B follow from the gradient of W by the chain rule."""
    params = with_values(ONE_GROUP)
    base, merged = merge_lora(ONE_GROUP, params)

    def loss(config, params):
        return jnp.square(apply(config, params, BATCH)["logits"]).mean()

    found = flatten(jax.grad(lambda p: loss(ONE_GROUP, p))(params))
    of_merged = flatten(jax.grad(lambda p: loss(base, p))(merged))
    flat, scale = flatten(params), 6.0 / 2
    for path in flat:
        if path[-1] == "lora_a":
            gradient = of_merged[*path[:-1], "kernel"]
            b = flat[*path[:-1], "lora_b"]
            num_out = b.ndim - 2
            outs = "xyz"[:num_out]
            ins = "ijk"[: gradient.ndim - 1 - num_out]
            expected = scale * jnp.einsum(f"l{ins}{outs},lr{outs}->l{ins}r", gradient, b)
            np.testing.assert_allclose(found[path], expected, rtol=1e-4, atol=1e-6, err_msg=str(path))
            expected = scale * jnp.einsum(f"l{ins}{outs},l{ins}r->lr{outs}", gradient, flat[path])
            np.testing.assert_allclose(found[*path[:-1], "lora_b"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mesh", [None, MeshConfig(data=2, fsdp=2, tensor=2)], ids=["one", "eight"])
def test_fresh_adapters_are_those_of_the_key_and_change_nothing_else(mesh):
    config = dataclasses.replace(LORA, num_kv_heads=4)
    on_mesh = None if mesh is None else make_mesh(mesh)
    expected = init_params(config, jax.random.key(7))
    base = init_params(without_lora(config), jax.random.key(7))
    found = with_fresh_adapters(config, base, jax.random.key(7), on_mesh)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    if on_mesh is not None:
        shardings = flatten(param_shardings(config, on_mesh))
        adapters = {path: leaf for path, leaf in flatten(found).items() if is_adapter(path)}
        assert all(leaf.sharding == shardings[path] for path, leaf in adapters.items())
        assert any(not leaf.sharding.is_fully_replicated for leaf in adapters.values())


def test_settings_go_from_one_model_to_another():
    assert with_lora_of(BASE, LORA) == LORA
    assert without_lora(LORA) == BASE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": 0}, "model.lora_rank=0 must be at least 1 or None"),
        ({"lora_rank": 17}, "model.lora_rank=17 is more than model.embed_dim=16, the full rank; use less"),
        ({"lora_alpha": -1.0}, "model.lora_alpha=-1.0 must be a positive number"),
        ({"lora_alpha": float("nan")}, "model.lora_alpha=nan must be a positive number"),
        (
            {"lora_targets": ("query", "query")},
            "model.lora_targets=query query names a projection twice; name each once",
        ),
        (
            {"lora_targets": ("querry",)},
            "model.lora_targets=querry is unknown; did you mean query? there are " + ", ".join(TARGETS),
        ),
        (
            {"lora_targets": ("gate",), "gated_mlp": False},
            "model.lora_targets=gate needs model.gated_mlp=True: this MLP has no gate; leave it out",
        ),
    ],
)
def test_bad_settings_are_one_line(changes, message):
    with pytest.raises(ValueError, match=r"^model\.lora_") as error:
        dataclasses.replace(LORA, **changes)
    assert str(error.value) == message


def test_adapters_are_trained_and_nothing_else():
    trained, _ = choose_trainable((), abstract_params(LORA)).split(abstract_params(LORA))
    assert all(is_adapter(path) for path in flatten(trained))
    assert len(flatten(trained)) == 3 * len(TARGETS) * 2


@pytest.mark.parametrize(
    ("head", "trained_head"),
    [
        ("classification", {"classifier", "pooler"}),
        ("token_classification", {"classifier"}),
        ("qa", {"classifier"}),
        ("mlm", set()),
        ("mlm_nsp", set()),
    ],
)
def test_the_head_of_a_task_is_trained_too(head, trained_head):
    params = abstract_params(tiny_model(head=head, causal=False, lora_rank=2))
    trained, _ = choose_trainable((), params).split(params)
    assert set(trained) - {"first_layers", "layers", "last_layers"} == trained_head


def test_adapters_can_be_frozen_by_name():
    params = abstract_params(LORA)
    trained, _ = choose_trainable(("layers.0-2/*",), params).split(params)
    assert set(trained) == {"last_layers"}


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "lion", "muon"])
def test_the_optimizer_keeps_state_of_adapters_alone(name):
    config = dataclasses.replace(LORA, num_kv_heads=4)
    optimizer = make_optimizer(OptimizerConfig(name=name), abstract_params(config))
    state = abstract_state(config, optimizer, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    names = [join(path) for path in named_leaves(state.optimizer)]
    assert any("lora_a" in name for name in names)
    assert not any("kernel" in name or "embed" in name or "norm/" in name for name in names), names


def test_training_moves_adapters_alone():
    taken = take_steps(ONE_GROUP, ADAMW)
    before, after = flatten(taken.before.params), flatten(taken.after.params)
    for path, old in before.items():
        if is_adapter(path):
            assert (old != after[path]).any(), path
        else:
            assert old.tobytes() == after[path].tobytes(), path
    assert all(0 < step["grad_norm"] < 100 and not step["skipped"] for step in taken.metrics)


def test_bfloat16_trains_adapters_in_float32():
    taken = take_steps(dataclasses.replace(ONE_GROUP, dtype="bfloat16"), ADAMW)
    whole = take_steps(ONE_GROUP, ADAMW)
    for path, leaf in flatten(taken.after.params).items():
        assert leaf.dtype == np.float32
        assert is_adapter(path) or leaf.tobytes() == flatten(taken.before.params)[path].tobytes()
    for mine, other in zip(taken.metrics, whole.metrics, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=0.01)  # bfloat16 has 8 bits


def test_a_mesh_of_eight_trains_the_same():
    config = dataclasses.replace(LORA, num_kv_heads=4)
    one = take_steps(config, ADAMW)
    eight = take_steps(config, ADAMW, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    for mine, other in zip(eight.metrics, one.metrics, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)
    for path, value in flatten(eight.after.params).items():
        if not is_adapter(path):
            assert value.tobytes() == flatten(one.after.params)[path].tobytes()


def test_a_run_resumes_bit_for_bit(make_experiment, stop_after, tmp_path):
    from flaxmill.train import train
    from flaxmill.train.checkpoint.checkpoints import CheckpointConfig
    from flaxmill.train.metrics.metrics_file import read_metrics
    from flaxmill.train.run.directory import read_config
    from flaxmill.train.run.restoring import load_params

    def run(name, **options):
        experiment = make_experiment(
            model=dict(lora_rank=2, lora_targets=("query", "down")),
            optimizer=OptimizerConfig(learning_rate=3e-2, layer_decay=0.9),
            checkpoint=CheckpointConfig(every=3),
            run_dir=str(tmp_path / name),
        )
        return train(experiment, **options), experiment

    (straight, _), (stopped, _) = run("straight"), run("stopped", stop=stop_after(5))
    assert stopped.preempted
    resumed, experiment = run("stopped")
    assert resumed.step == straight.step == 8
    rows = [
        {name: row[name] for name in ("step", "loss", "grad_norm")}
        for result in (straight, resumed)
        for row in read_metrics(result.directory / "metrics.jsonl")
        if "loss" in row
    ]
    assert rows[:8] == rows[8:]
    mesh, resolved = make_mesh(experiment.mesh), read_config(resumed.directory)
    both = [load_params(result.directory, resolved, mesh)[0] for result in (straight, resumed)]
    jax.tree.map(np.testing.assert_array_equal, *both)
