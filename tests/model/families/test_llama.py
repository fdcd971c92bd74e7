"""LLaMA: outputs equal torch's, and files go back and forth unchanged."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxmill.model.config import ModelConfig
from flaxmill.model.huggingface.directory import load_huggingface, read_huggingface_config

pytestmark = pytest.mark.slow  # every head builds a torch model and one of ours

TOLERANCE = 2e-5  # float32 holds 7 digits; another order of sums costs one or two
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
LABELLED = {"pad_token_id": 0, "num_labels": 3}
VARIANTS = {
    "llama": {},
    "llama, llama3 rope": {"rope_parameters": LLAMA3_ROPE},
    "llama, linear rope": {"rope_parameters": LINEAR_ROPE},
    "llama, tied, biases": {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    "llama, none": {"architecture": "LlamaModel"},
    "llama, classification": {"architecture": "LlamaForSequenceClassification", **LABELLED},
    "llama, token_classification": {"architecture": "LlamaForTokenClassification", **LABELLED},
    "llama, qa": {"architecture": "LlamaForQuestionAnswering"},
}
variants = pytest.mark.parametrize("variant", VARIANTS)


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


def llama_shape(**changes):
    """The shape of llama3_8b, made small."""
    shape = {
        "vocab_size": 101,
        "num_layers": 3,
        "embed_dim": 24,
        "num_heads": 6,
        "num_kv_heads": 2,
        "mlp_dim": 44,
        "norm": "rmsnorm",
        "positions": "rotary",
        "rope_theta": 500_000.0,
        "activation": "silu",
        "gated_mlp": True,
        "use_bias": False,
        "tie_embeddings": False,
        "initializer": "normal",
        "head": "lm",
        "causal": True,
    }
    return ModelConfig(**shape | changes)


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({}, "llama"),
        ({"head_dim": 6, "rope_scaling": "linear", "rope_factor": 2.0, "mlp_bias": True}, "llama"),
        ({"layer_pattern": ("local",), "window": 4}, "mistral"),
        ({"qkv_bias": True}, "qwen2"),
        ({"qkv_bias": True, "layer_pattern": ("local", "global"), "window": 4}, "qwen2"),
        ({"qk_norm": True, "head_dim": 10}, "qwen3"),
    ],
)
def test_a_model_of_this_project_comes_back_bit_for_bit(changes, family, round_trip_own, tmp_path):
    assert round_trip_own(llama_shape(**changes), tmp_path).family == family


def test_a_tied_copy_and_rotary_tables_of_old_files_are_dropped(torch_reference, tmp_path):
    directory, _ = torch_reference("llama", tie_word_embeddings=True)
    tensors = load_file(directory / "model.safetensors")
    assert "lm_head.weight" not in tensors
    for layer in range(3):
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    copy = {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    save_file(tensors | copy, tmp_path / "model.safetensors")
    settings = json.loads((directory / "config.json").read_text())
    rope = settings.pop("rope_parameters")
    settings |= {"rope_theta": rope["rope_theta"], "rope_scaling": None, "pretraining_tp": 2}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    expected, found = load_huggingface(directory), load_huggingface(tmp_path)
    assert found[0] == expected[0]
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


@pytest.mark.parametrize("variant", ["llama"])
def test_a_classifier_starts_from_the_body_of_a_language_model(reference, caplog):
    _, params = load_huggingface(reference[0], head="classification", num_labels=3)
    assert params["classifier"]["kernel"].shape == (30, 3)
    assert "classifier/kernel" in caplog.text
    language_model = load_huggingface(reference[0])[1]
    for name in ("embed", "layers", "final_norm"):
        jax.tree.map(np.testing.assert_array_equal, params[name], language_model[name])
