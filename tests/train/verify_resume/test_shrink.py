"""`--shrink` makes a small experiment of the same kind, which divides over the meshes that it will run on."""

import dataclasses

import pytest

from flaxmill.model.functional import count_params
from flaxmill.train.named_configs import list_configs, load_config
from flaxmill.train.verify_resume.shrink import shrink

ONE = {"data": 1, "fsdp": 1, "tensor": 1}
MESHES = [
    ONE,
    {"data": 2, "fsdp": 4, "tensor": 1},
    {"data": 1, "fsdp": 1, "tensor": 4},
    {"data": 3, "fsdp": 1, "tensor": 2},
]
SIZES = {"num_layers", "embed_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "expert_dim"}


def small_vocabulary(config):
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, vocab_size=1000, max_positions=9000)
    )


@pytest.mark.parametrize("name", list_configs())
@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_every_config_shrinks_to_what_divides_over_the_mesh(name, mesh):
    config = small_vocabulary(load_config(name))
    small = shrink(config, [ONE, mesh])
    model = small.model
    assert model.num_layers <= 3
    assert model.embed_dim <= 256
    assert small.data.sequence_length <= 128
    assert count_params(dataclasses.replace(model, head="lm", causal=True)) < 2e7
    assert model.embed_dim % mesh["fsdp"] == 0
    for size in (model.num_heads, model.kv_heads, model.hidden_dim):
        assert size % mesh["tensor"] == 0
    assert small.batch_size % (small.accumulate * mesh["data"] * mesh["fsdp"]) == 0


@pytest.mark.parametrize("name", list_configs())
def test_nothing_grows_and_nothing_but_sizes_changes(name):
    config = load_config(name)
    small = shrink(config, [ONE])
    for field in dataclasses.fields(config.model):
        before, after = getattr(config.model, field.name), getattr(small.model, field.name)
        assert before == after or (field.name in SIZES and after < before), field.name
    assert small.batch_size <= config.batch_size
    changed = {"model", "batch_size", "data"}
    kept = [field.name for field in dataclasses.fields(config) if field.name not in changed]
    assert all(getattr(config, name) == getattr(small, name) for name in kept)
    assert dataclasses.replace(small.data, sequence_length=config.data.sequence_length) == config.data


def test_grouped_heads_stay_grouped():
    config = load_config("llama3_8b")
    small = shrink(config, [ONE]).model
    assert small.num_heads > small.kv_heads


def test_a_pattern_keeps_one_period_and_a_layer():
    config = load_config("gpt2_124m")
    model = dataclasses.replace(config.model, layer_pattern=("global", "local", "local"), window=16)
    assert shrink(dataclasses.replace(config, model=model), [ONE]).model.num_layers == 4


def test_a_model_that_cannot_be_shrunk_is_a_mistake_in_one_line():
    config = load_config("gpt_tiny")
    model = dataclasses.replace(
        config.model, embed_dim=256, num_heads=2, positions="rotary", rotary_fraction=0.05
    )
    with pytest.raises(ValueError, match=r"--shrink makes an experiment that is refused .*must be even"):
        shrink(dataclasses.replace(config, model=model), [ONE])


def test_layers_and_rows_suffice_for_the_stages_of_a_pipeline():
    config = dataclasses.replace(load_config("llama3_8b"), pipeline_rounds=2)
    small = shrink(config, [ONE, {"data": 2, "stage": 4, "fsdp": 2, "tensor": 1}])
    assert small.model.num_layers == 8
    assert small.model.embed_dim % 8 == 0
    assert small.batch_size % 16 == 0


def test_rows_and_experts_still_divide_over_expert():
    config = dataclasses.replace(load_config("moe_tiny"), batch_size=64)
    small = shrink(config, [ONE, {"data": 1, "fsdp": 2, "expert": 8, "tensor": 1}])
    assert small.batch_size == 16
    assert small.model.num_experts == 8
