"""GPT-2: outputs equal torch's, files go back and forth unchanged, published sizes count right."""

import json

import jax
import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from flaxmill.model.config import ModelConfig
from flaxmill.model.families.gpt2 import DESCRIPTION
from flaxmill.model.functional import count_params
from flaxmill.model.huggingface.directory import load_huggingface, read_huggingface_config

pytestmark = pytest.mark.slow  # every head builds a torch model and one of ours

TOLERANCE = 2e-5  # float32 holds 7 digits; another order of sums costs one or two
VARIANTS = {
    "lm": {},
    "unscaled, untied": {"scale_attn_weights": False, "tie_word_embeddings": False},
    "erf, no inner size": {"activation_function": "gelu", "n_inner": None},
    "none": {"architecture": "GPT2Model"},
    "classification": {"architecture": "GPT2ForSequenceClassification", "pad_token_id": 0, "num_labels": 3},
    "token_classification": {"architecture": "GPT2ForTokenClassification", "num_labels": 3},
    "qa": {"architecture": "GPT2ForQuestionAnswering"},
}
variants = pytest.mark.parametrize("variant", VARIANTS)


@variants
def test_outputs_equal_torchs(variant, torch_reference, output_differences):
    differences = output_differences(torch_reference("gpt2", **VARIANTS[variant]))
    assert max(differences.values()) < TOLERANCE, differences


@variants
def test_an_exported_import_is_the_file_again(variant, torch_reference, export_again, tmp_path):
    reference = torch_reference("gpt2", **VARIANTS[variant])
    before, after = export_again(reference, tmp_path)
    assert read_huggingface_config(tmp_path) == read_huggingface_config(reference[0])
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, name)


@pytest.mark.parametrize("changes", [{}, {"max_positions": 33, "num_layers": 3, "dropout": 0.1}])
def test_a_model_of_this_project_comes_back_bit_for_bit(changes, round_trip_own, tmp_path):
    shape = {"vocab_size": 101, "max_positions": 16, "embed_dim": 24, "num_heads": 3}  # gpt2_124m made small
    config = ModelConfig(**shape | changes, head="lm", causal=True)
    found = round_trip_own(config, tmp_path)
    assert found.family == "gpt2"
    assert found.dropout == config.dropout


def test_files_of_the_hub_lack_the_prefix_and_hold_masks(torch_reference, tmp_path):
    directory, _ = torch_reference("gpt2")
    tensors = {
        name.removeprefix("transformer."): tensor
        for name, tensor in load_file(directory / "model.safetensors").items()
    }
    for layer in range(3):
        tensors[f"h.{layer}.attn.bias"] = np.tril(np.ones((1, 1, 40, 40), np.float32))
        tensors[f"h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)
    save_file(tensors | {"lm_head.weight": tensors["wte.weight"]}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    expected, found = load_huggingface(directory), load_huggingface(tmp_path)
    assert found[0] == expected[0]
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


def test_a_classifier_starts_from_the_body_of_a_language_model(torch_reference, caplog):
    directory, _ = torch_reference("gpt2")
    config, params = load_huggingface(directory, head="classification", num_labels=3)
    assert params["classifier"]["kernel"].shape == (30, 3)
    assert config.pooling == "last"
    assert "classifier/kernel" in caplog.text
    body = load_huggingface(directory, head="none")[1]
    for name in body:
        jax.tree.map(np.testing.assert_array_equal, params[name], body[name])


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 124_439_808),
        ({"n_embd": 1024, "n_layer": 24, "n_head": 16}, 354_823_168),
        ({"n_embd": 1280, "n_layer": 36, "n_head": 20}, 774_030_080),
        ({"n_embd": 1600, "n_layer": 48, "n_head": 25}, 1_557_611_200),
    ],
)
def test_published_sizes_have_their_published_number_of_parameters(settings, count):
    assert count_params(DESCRIPTION.read_config(settings, "lm", frozenset())) == count


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("gelu_new", "gelu_tanh"),
        ("gelu_fast", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("gelu_python", "gelu"),
        ("gelu", "gelu"),
        ("relu", "relu"),
        ("swish", "silu"),
    ],
)
def test_activations_of_other_names_are_those_of_torch(name, ours):
    import torch
    from transformers.activations import ACT2FN

    from flaxmill.model.layers.mlp import activation

    config = DESCRIPTION.read_config({"activation_function": name}, "lm", frozenset())
    assert config.activation == ours
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    expected = ACT2FN[name](torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(activation(config.activation)(jax.numpy.asarray(x)), expected, atol=1e-6)


def test_an_empty_config_json_has_the_defaults_of_transformers():
    theirs = transformers.AutoConfig.for_model("gpt2").to_dict()
    config = DESCRIPTION.read_config({}, "lm", frozenset())
    assert config == DESCRIPTION.read_config(theirs, "lm", frozenset())
    assert config == DESCRIPTION.read_config(DESCRIPTION.write_config(config), "lm", frozenset())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ({"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn=True"),
        ({"add_cross_attention": True}, "add_cross_attention=True"),
        ({"activation_function": "quick_gelu"}, "activation_function='quick_gelu'"),
    ],
)
def test_settings_that_the_model_lacks_are_refused_in_one_line(settings, named):
    with pytest.raises(ValueError, match=named) as error:
        DESCRIPTION.read_config(settings, "lm", frozenset())
    assert "\n" not in str(error.value)


def test_ids_past_the_vocabulary_are_left_out(torch_reference):
    directory, _ = torch_reference("gpt2")
    settings = json.loads((directory / "config.json").read_text())
    config = DESCRIPTION.read_config({"vocab_size": 101}, "lm", frozenset())
    assert (config.bos_id, config.eos_id) == (None, None)  # the default is 50256
    assert DESCRIPTION.read_config(settings, "lm", frozenset()).eos_id == 100
    listed = DESCRIPTION.read_config(settings | {"eos_token_id": [7, 8]}, "lm", frozenset())
    assert listed.eos_id == 7
