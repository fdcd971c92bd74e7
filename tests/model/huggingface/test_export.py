"""Export takes the parameters of its config and no others, and replaces what was there."""

import dataclasses

import jax
import numpy as np
import pytest

from flaxmill.model import ModelConfig, init_params, save_huggingface

GPT2 = ModelConfig(
    vocab_size=101, max_positions=24, num_layers=3, embed_dim=32, num_heads=4, head="lm", causal=True
)
BERT = dataclasses.replace(
    GPT2,
    head="mlm",
    causal=False,
    norm_position="post",
    embedding_norm=True,
    num_segments=2,
    activation="gelu",
)


def draw(config: ModelConfig):
    return jax.tree.map(np.asarray, init_params(config, jax.random.key(0)))


def test_parameters_of_another_config_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the parameters do not fit this config: .*layers/") as refused:
        save_huggingface(tmp_path, dataclasses.replace(GPT2, num_layers=5), draw(GPT2))
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_the_model_before_leaves_no_generation_settings(tmp_path):
    save_huggingface(tmp_path, GPT2, draw(GPT2))
    save_huggingface(tmp_path, BERT, draw(BERT))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
