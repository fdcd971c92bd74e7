"""GPT-Neo: outputs equal torch's, files go back and forth unchanged, published sizes count right."""

import jax
import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from flaxmill.model.config import ModelConfig
from flaxmill.model.families.gpt_neo import DESCRIPTION
from flaxmill.model.functional import count_params
from flaxmill.model.huggingface.directory import load_huggingface, read_huggingface_config

pytestmark = pytest.mark.slow  # every head builds a torch model and one of ours

TOLERANCE = 2e-5  # float32 holds 7 digits; another order of sums costs one or two
VARIANTS = {
    "lm": {},
    "window of one": {"window_size": 1, "attention_types": [[["local", "global", "global"], 1]]},
    "all global, untied": {"attention_types": [[["global"], 3]], "tie_word_embeddings": False},
    "none": {"architecture": "GPTNeoModel", "intermediate_size": None},
    "classification": {"architecture": "GPTNeoForSequenceClassification", "pad_token_id": 0, "num_labels": 3},
    "token_classification": {"architecture": "GPTNeoForTokenClassification", "num_labels": 3},
    "qa": {"architecture": "GPTNeoForQuestionAnswering"},
}
variants = pytest.mark.parametrize("variant", VARIANTS)


@variants
def test_outputs_equal_torchs(variant, torch_reference, output_differences):
    differences = output_differences(torch_reference("gpt_neo", **VARIANTS[variant]))
    assert max(differences.values()) < TOLERANCE, differences


@variants
def test_an_exported_import_is_the_file_again(variant, torch_reference, export_again, tmp_path):
    reference = torch_reference("gpt_neo", **VARIANTS[variant])
    before, after = export_again(reference, tmp_path)
    assert read_huggingface_config(tmp_path) == read_huggingface_config(reference[0])
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, name)


def test_a_model_of_this_project_comes_back_bit_for_bit(round_trip_own, tmp_path):
    config = ModelConfig(
        vocab_size=101,
        max_positions=16,
        num_layers=5,
        embed_dim=24,
        num_heads=3,
        layer_pattern=("global", "local"),
        window=4,
        attention_scale=1.0,
        qkv_bias=False,
        head="lm",
        causal=True,
    )
    found = round_trip_own(config, tmp_path)
    assert found.family == "gpt_neo"
    assert (found.layer_pattern, found.window) == (config.layer_pattern, 4)


def test_masks_in_files_of_the_hub_are_dropped(torch_reference, tmp_path):
    directory, _ = torch_reference("gpt_neo")
    tensors = load_file(directory / "model.safetensors")
    for layer in range(3):
        tensors[f"transformer.h.{layer}.attn.attention.bias"] = np.ones((1, 1, 40, 40), np.uint8)
        tensors[f"transformer.h.{layer}.attn.attention.masked_bias"] = np.array(-1e9, np.float32)
    save_file(tensors | {"lm_head.weight": tensors["transformer.wte.weight"]}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    expected, found = load_huggingface(directory), load_huggingface(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


@pytest.mark.parametrize(
    ("types", "pattern"),
    [
        ([[["global", "local"], 6]], ("global", "local")),
        ([[["global", "local"], 5], [["global"], 2]], ("global", "local") * 5 + ("global",)),
        ([[["global"], 12]], ()),
        ([[["local"], 12]], ("local",)),
        ([[["global", "global", "local"], 4]], ("global", "global", "local")),
    ],
)
def test_attention_types_become_their_shortest_pattern(types, pattern):
    settings = {"num_layers": 12, "attention_types": types}
    config = DESCRIPTION.read_config(settings, "lm", frozenset())
    assert config.layer_pattern == pattern
    assert config.window == (256 if "local" in pattern else None)
    assert DESCRIPTION.read_config(DESCRIPTION.write_config(config), "lm", frozenset()) == config


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (
            {
                "hidden_size": 768,
                "num_layers": 12,
                "num_heads": 12,
                "attention_types": [[["global", "local"], 6]],
            },
            125_198_592,
        ),
        ({}, 1_315_575_808),
        (
            {
                "hidden_size": 2560,
                "num_layers": 32,
                "num_heads": 20,
                "attention_types": [[["global", "local"], 16]],
            },
            2_651_307_520,
        ),
    ],
)
def test_published_sizes_have_their_published_number_of_parameters(settings, count):
    assert count_params(DESCRIPTION.read_config(settings, "lm", frozenset())) == count


def test_an_empty_config_json_has_the_defaults_of_transformers():
    theirs = transformers.AutoConfig.for_model("gpt_neo").to_dict()
    config = DESCRIPTION.read_config({}, "lm", frozenset())
    assert config == DESCRIPTION.read_config(theirs, "lm", frozenset())
    assert config == DESCRIPTION.read_config(DESCRIPTION.write_config(config), "lm", frozenset())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_layers": 3}, "describes 24 layers but num_layers=3"),
        ({"num_layers": 1, "attention_types": [[["sparse"], 1]]}, "attention_types"),
        ({"activation_function": "mish"}, "activation_function='mish'"),
    ],
)
def test_settings_that_the_model_lacks_are_refused_in_one_line(settings, named):
    with pytest.raises(ValueError, match=named) as error:
        DESCRIPTION.read_config(settings, "lm", frozenset())
    assert "\n" not in str(error.value)
