"""ModernBERT: outputs equal torch's, files go back and forth unchanged, published sizes count right."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxmill.model.families.modernbert import DESCRIPTION
from flaxmill.model.functional import count_params
from flaxmill.model.huggingface.directory import load_huggingface

pytestmark = pytest.mark.slow  # every head builds a torch model and one of ours

TOLERANCE = 2e-5  # float32 holds 7 digits; measured are 2e-6 for outputs up to 5
BIASES = {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True}
VARIANTS = {
    "mlm": {},
    "mlm, biases": BIASES,
    "qa, every second of 4 global": {
        "architecture": "ModernBertForQuestionAnswering",
        "num_hidden_layers": 4,
        "global_attn_every_n_layers": 2,
        "global_rope_theta": 500.0,
        "local_rope_theta": 50.0,
    },
    "classification": {"architecture": "ModernBertForSequenceClassification", "num_labels": 3},
    "classification, mean, biases": {
        "architecture": "ModernBertForSequenceClassification",
        "classifier_pooling": "mean",
        **BIASES,
    },
    "token_classification, one layer": {
        "architecture": "ModernBertForTokenClassification",
        "num_labels": 3,
        "num_hidden_layers": 1,
    },
    "none, all local": {"architecture": "ModernBertModel", "layer_types": ["sliding_attention"] * 5},
    "none, all global": {"architecture": "ModernBertModel", "layer_types": ["full_attention"] * 5},
}
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "intermediate_size": 2624,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_equal_torchs(variant, torch_reference, output_differences):
    differences = output_differences(torch_reference("modernbert", **VARIANTS[variant]))
    assert max(differences.values()) < TOLERANCE, differences


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_exported_import_is_the_file_again(
    variant, torch_reference, export_again, tmp_path, read_settings
):
    reference = torch_reference("modernbert", **VARIANTS[variant])
    before, after = export_again(reference, tmp_path)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, name)
    settings = [read_settings(path) for path in (reference[0], tmp_path)]
    if variant != "none, all global":  # there no layer has the window
        assert {key: settings[0][key] for key in settings[1]} == settings[1]


def test_settings_of_transformers_4_read_alike(torch_reference, tmp_path):
    directory, _ = torch_reference("modernbert", **VARIANTS["qa, every second of 4 global"])
    settings = json.loads((directory / "config.json").read_text())
    del settings["rope_parameters"], settings["layer_types"]
    settings |= {"global_attn_every_n_layers": 2, "global_rope_theta": 500.0, "local_rope_theta": 50.0}
    old = DESCRIPTION.read_config(settings, "qa", frozenset())
    assert (old.layer_pattern, old.window) == (("global", "local"), 8)
    assert (old.rope_theta, old.local_rope_theta) == (500.0, 50.0)
    assert old == load_huggingface(directory)[0]


def test_defaults_are_those_of_the_published_model():
    config = DESCRIPTION.read_config({}, "mlm", frozenset())
    assert (config.layer_pattern, config.window) == (("global", "local", "local"), 128)
    assert (config.rope_theta, config.local_rope_theta) == (160_000.0, 10_000.0)
    assert (config.pad_id, config.bos_id, config.eos_id) == (50283, 50281, 50282)


def test_a_copy_of_the_tied_decoder_is_dropped(torch_reference, tmp_path):
    directory, _ = torch_reference("modernbert")
    tensors = load_file(directory / "model.safetensors")
    tensors["decoder.weight"] = tensors["model.embeddings.tok_embeddings.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    expected, found = load_huggingface(directory), load_huggingface(tmp_path)
    assert found[0] == expected[0]
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


@pytest.mark.parametrize(("settings", "count"), [({}, 149_014_272), (LARGE, 394_781_696)])
def test_published_sizes_have_their_published_number_of_parameters(settings, count):
    assert count_params(DESCRIPTION.read_config(settings, "none", frozenset())) == count


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"decoder_bias": False}, "decoder_bias=False"),
        ({"classifier_activation": "relu"}, "classifier_activation='relu'"),
        ({"hidden_activation": "quick_gelu", "classifier_activation": "quick_gelu"}, "='quick_gelu'"),
        ({"classifier_pooling": "max"}, "classifier_pooling='max'"),
        ({"layer_types": ["full_attention"]}, "22 layers"),
        ({"layer_types": ["chunked_attention"] * 22}, "chunked_attention"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "ntk", "factor": 2.0}}},
            "rotary scaling 'ntk'",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rotary scaling 'linear' lacks 'factor'"),
        ({"sliding_window": 8}, "sliding_window=8"),
    ],
)
def test_settings_that_the_model_lacks_are_refused_in_one_line(settings, named):
    with pytest.raises(ValueError, match=named) as error:
        DESCRIPTION.read_config(settings, "mlm", frozenset())
    assert "\n" not in str(error.value)
