"""Exact parameter counts of the published models, from shapes alone, and how their weights begin."""

import dataclasses
import importlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model import ModelConfig, abstract_params, count_params, init_params, logical_axes

GPT2 = ModelConfig(vocab_size=50257, max_positions=1024, causal=True, head="lm")


@pytest.mark.parametrize(
    ("num_layers", "embed_dim", "num_heads", "expected"),
    [
        (12, 768, 12, 124_439_808),
        (24, 1024, 16, 354_823_168),
        (36, 1280, 20, 774_030_080),
        (48, 1600, 25, 1_557_611_200),
    ],
)
def test_gpt2_has_the_published_number_of_parameters(num_layers, embed_dim, num_heads, expected):
    config = dataclasses.replace(GPT2, num_layers=num_layers, embed_dim=embed_dim, num_heads=num_heads)
    assert count_params(config) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2_124m", 124_439_808),
        ("bert_base", 110_106_428),
        ("bert_large", 336_226_108),
        ("llama3_8b", 8_030_261_248),
        ("llama3_70b", 70_553_706_496),
        ("llama31_405b", 405_853_388_800),
    ],
)
def test_named_config_has_the_published_number_of_parameters(name, expected):
    experiment = importlib.import_module(f"flaxmill.configs.{name}").config
    heads = {"causal": ("lm", True), "mlm_nsp": ("mlm_nsp", False)}
    head, causal = heads[experiment.objective]
    positions = experiment.model.max_positions or experiment.data.sequence_length
    config = dataclasses.replace(experiment.model, head=head, causal=causal, max_positions=positions)
    assert count_params(config) == expected


def test_padding_of_the_vocabulary_is_stored_but_not_counted():
    config = dataclasses.replace(GPT2, vocab_size=101, num_layers=1, embed_dim=8, num_heads=2)
    stored = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(config)))
    assert stored - count_params(config) == (128 - 101) * 8
    table = init_params(config, jax.random.key(0))["embed"]["tokens"]["embedding"]
    assert table.shape == (128, 8)
    assert not table[101:].any()


def test_every_dimension_has_a_logical_axis():
    config = dataclasses.replace(GPT2, head="mlm_nsp", causal=False, tie_embeddings=False, gated_mlp=True)
    shapes, axes = abstract_params(config), logical_axes(config)
    jax.tree.map(lambda leaf, names: np.testing.assert_equal(len(names), leaf.ndim), shapes, axes)
    assert axes["layers"]["attention"]["query"]["kernel"] == ("layers", "embed", "heads", "head_dim")


@pytest.mark.slow
def test_initial_deviations_are_the_papers():
    wide: dict[str, Any] = dict(
        vocab_size=5000, max_positions=64, num_layers=8, embed_dim=256, num_heads=4, causal=True, head="lm"
    )
    gpt2 = init_params(ModelConfig(**wide, initializer="gpt2"), jax.random.key(0))["layers"]
    np.testing.assert_allclose(gpt2["mlp"]["up"]["kernel"].std(), 0.02, rtol=0.01)
    np.testing.assert_allclose(gpt2["mlp"]["down"]["kernel"].std(), 0.02 / math.sqrt(16), rtol=0.01)
    bert = init_params(ModelConfig(**wide, initializer="bert"), jax.random.key(0))
    table = bert["embed"]["tokens"]["embedding"][:5000]
    np.testing.assert_allclose(table.std(), 0.01758, rtol=0.01)
    assert jnp.abs(table).max() <= 0.04
    xavier = init_params(ModelConfig(**wide, initializer="xavier"), jax.random.key(0))["layers"]
    up = xavier["mlp"]["up"]["kernel"]
    np.testing.assert_allclose(jnp.abs(up).max(), math.sqrt(6 / (256 + 1024)), rtol=1e-3)
    assert not gpt2["mlp"]["up"]["bias"].any()
