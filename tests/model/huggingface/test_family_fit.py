"""A model of one's own gets the first family that can describe it; if none can, the error says why."""

import dataclasses
import logging

import pytest

from flaxmill.model.config import ModelConfig
from flaxmill.model.huggingface.family_fit import fit_family

GPT = ModelConfig(
    vocab_size=101, max_positions=24, num_layers=2, embed_dim=32, num_heads=4, head="lm", causal=True
)
BERT = dataclasses.replace(
    GPT, head="mlm_nsp", causal=False, norm_position="post", embedding_norm=True, num_segments=2,
    activation="gelu", norm_epsilon=1e-12,
)  # fmt: skip
LLAMA = dataclasses.replace(
    GPT, positions="rotary", norm="rmsnorm", activation="silu", gated_mlp=True, use_bias=False,
    tie_embeddings=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "family"),
    [
        (GPT, "gpt2"),
        (BERT, "bert"),
        (LLAMA, "llama"),
        (dataclasses.replace(LLAMA, max_positions=None), "llama"),
        (dataclasses.replace(LLAMA, qkv_bias=True), "qwen2"),
        (dataclasses.replace(LLAMA, qk_norm=True), "qwen3"),
        (dataclasses.replace(LLAMA, layer_pattern=("local",), window=8), "mistral"),
        (dataclasses.replace(LLAMA, num_experts=4), "mixtral"),
        (dataclasses.replace(LLAMA, num_experts=4, moe_every=2, qk_norm=True, expert_dim=8), "qwen3_moe"),
        (dataclasses.replace(GPT, attention_scale=1.0, qkv_bias=False), "gpt_neo"),
        (dataclasses.replace(GPT, dropout=0.3, dtype="bfloat16", remat="full", scan_layers=False), "gpt2"),
        (dataclasses.replace(GPT, rope_theta=5.0, window=3, num_labels=7), "gpt2"),
    ],
)
def test_a_model_of_ones_own_finds_its_family(config, family):
    found, written = fit_family(config)
    assert found.model_type == family
    assert written == dataclasses.replace(config, family=family)


def test_a_model_that_no_family_has_names_the_nearest_and_what_differs():
    with pytest.raises(
        ValueError, match=r"nearest is gpt2, where embedding_norm is False and not True"
    ) as error:
        fit_family(dataclasses.replace(GPT, embedding_norm=True))
    assert "\n" not in str(error.value)


def test_a_family_that_is_asked_for_must_fit():
    with pytest.raises(ValueError, match="nearest is llama, where"):
        fit_family(dataclasses.replace(GPT, family="llama"))
    with pytest.raises(
        ValueError,
        match=r"model\.head=mlm_nsp does not exist in files of gpt2; use one of classification, lm",
    ):
        fit_family(dataclasses.replace(BERT, family="gpt2"))


def test_a_hybrid_is_written_as_its_causal_half_and_the_log_says_so(caplog):
    with caplog.at_level(logging.WARNING, "flaxmill.weights"):
        family, written = fit_family(dataclasses.replace(GPT, causal=False))
    assert (family.model_type, written.causal) == ("gpt2", True)
    assert "causal half" in caplog.text
