"""Mixtral and Qwen3-MoE: outputs equal torch's, and files go back and forth unchanged."""

import json
import logging

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from flaxmill.model.config import ModelConfig
from flaxmill.model.huggingface.directory import load_huggingface, read_huggingface_config, save_huggingface

pytestmark = pytest.mark.slow  # every head builds a torch model and one of ours

TOLERANCE = 2e-5  # float32 holds 7 digits; another order of sums costs one or two
LABELLED = {"pad_token_id": 0, "num_labels": 3}
VARIANTS = {
    "mixtral": {},
    "mixtral, window": {"sliding_window": 5},
    "mixtral, qa": {"architecture": "MixtralForQuestionAnswering"},
    "qwen3_moe": {},
    "qwen3_moe, none": {"architecture": "Qwen3MoeModel", "output_router_logits": False},
    "qwen3_moe, classification": {"architecture": "Qwen3MoeForSequenceClassification", **LABELLED},
    "qwen3_moe, qa": {"architecture": "Qwen3MoeForQuestionAnswering"},
    "qwen3_moe, dense layers": {"mlp_only_layers": [0, 2], "norm_topk_prob": False, "attention_bias": True},
}
variants = pytest.mark.parametrize("variant", VARIANTS)
families = pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])


@pytest.fixture
def reference(variant, torch_reference):
    return torch_reference(variant.partition(",")[0], **VARIANTS[variant])


@variants
def test_outputs_equal_torchs(reference, output_differences):
    differences = output_differences(reference)
    assert max(differences.values()) < TOLERANCE, differences


@variants
def test_an_exported_import_is_the_file_again(reference, export_again, tmp_path):
    before, after = export_again(reference, tmp_path)
    assert read_huggingface_config(tmp_path) == read_huggingface_config(reference[0])
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, name)


@families
def test_files_with_fused_experts_are_read_as_those_with_one_tensor_each(family, torch_reference, tmp_path):
    directory, model = torch_reference(family)
    model.save_pretrained(tmp_path, save_original_format=False)
    assert "model.layers.0.mlp.experts.gate_up_proj" in load_file(tmp_path / "model.safetensors")
    expected, found = load_huggingface(directory), load_huggingface(tmp_path)
    assert found[0] == expected[0]
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


def model_shape(**changes):
    """The shape of a LLaMA with experts, made small."""
    shape = {
        "vocab_size": 101, "num_layers": 3, "embed_dim": 24, "num_heads": 6, "num_kv_heads": 2, "mlp_dim": 44,
        "norm": "rmsnorm", "positions": "rotary", "activation": "silu", "gated_mlp": True, "use_bias": False,
        "tie_embeddings": False, "initializer": "normal", "head": "lm", "causal": True, "num_experts": 4,
    }  # fmt: skip
    return ModelConfig(**shape | changes)


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({"load_balance_loss": 0.02, "router_z_loss": 0.001}, "mixtral"),
        ({"layer_pattern": ("local",), "window": 4, "experts_per_token": 3, "expert_dim": 12}, "mixtral"),
        ({"qk_norm": True, "head_dim": 10, "normalize_top_k": False, "expert_dim": 12}, "qwen3_moe"),
        ({"qk_norm": True, "moe_every": 2, "num_layers": 5, "experts_per_token": 1}, "qwen3_moe"),
    ],
)
def test_a_model_of_this_project_comes_back_bit_for_bit(changes, family, round_trip_own, tmp_path):
    found = round_trip_own(model_shape(**changes), tmp_path)
    assert found.family == family
    assert found.load_balance_loss == changes.get("load_balance_loss", 0)


def test_a_capacity_is_left_out_and_the_log_says_so(round_trip_own, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "flaxmill.weights"):
        assert round_trip_own(model_shape(expert_capacity=1.25), tmp_path).expert_capacity is None
    assert "experts are exported without a capacity" in caplog.text


def test_shared_experts_have_no_family():
    with pytest.raises(ValueError, match="nearest is mixtral, where shared_experts is 0 and not 1") as error:
        save_huggingface("unused", model_shape(shared_experts=1), {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"mlp_only_layers": [1]},
        {"mlp_only_layers": [0], "decoder_sparse_step": 2},
        {"decoder_sparse_step": 4},
        {"mlp_only_layers": [0, 1, 2]},
    ],
)
def test_experts_at_places_that_do_not_repeat_are_refused(settings, torch_reference, tmp_path):
    given = json.loads((torch_reference("qwen3_moe")[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(given | settings))
    if settings == {"mlp_only_layers": [0], "decoder_sparse_step": 2}:
        assert read_huggingface_config(tmp_path).moe_every == 2  # layer 1 alone has experts either way
        return
    with pytest.raises(ValueError, match="only every n-th of the 3 layers may have experts") as error:
        read_huggingface_config(tmp_path)
    assert "\n" not in str(error.value)


@families
def test_greedy_continuations_equal_transformers_token_for_token(family, torch_reference):
    import torch

    from flaxmill.model import GenerationConfig, generate

    directory, model = torch_reference(family)
    config, params = load_huggingface(directory)
    prompts = [list(range(5, 12)), [40, 3, 77]]
    found = generate(config, params, prompts, GenerationConfig(max_new_tokens=12, end_ids=()))
    for prompt, continuation in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            theirs = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)
        assert continuation == theirs[0, len(prompt) :].tolist()
