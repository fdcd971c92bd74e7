"""GPT-NeoX: outputs equal torch's, files go back and forth unchanged, published sizes count right."""

import jax
import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from flaxmill.model.config import ModelConfig
from flaxmill.model.families.gpt_neox import DESCRIPTION
from flaxmill.model.functional import count_params
from flaxmill.model.huggingface.directory import load_huggingface, read_huggingface_config

pytestmark = pytest.mark.slow  # every head builds a torch model and one of ours

TOLERANCE = 2e-5  # float32 holds 7 digits; another order of sums costs one or two
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "partial_rotary_factor": 0.75,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
VARIANTS = {
    "lm": {},
    "sequential, tanh": {"use_parallel_residual": False, "hidden_act": "gelu_pytorch_tanh"},
    "tied, no attention bias": {"tie_word_embeddings": True, "attention_bias": False},
    "stretched": {"rope_parameters": LLAMA3_ROPE},
    "none": {"architecture": "GPTNeoXModel"},
    "classification": {
        "architecture": "GPTNeoXForSequenceClassification",
        "pad_token_id": 0,
        "num_labels": 3,
    },
    "token_classification": {"architecture": "GPTNeoXForTokenClassification", "num_labels": 3},
    "qa": {"architecture": "GPTNeoXForQuestionAnswering"},
}
variants = pytest.mark.parametrize("variant", VARIANTS)


@variants
def test_outputs_equal_torchs(variant, torch_reference, output_differences):
    differences = output_differences(torch_reference("gpt_neox", **VARIANTS[variant]))
    assert max(differences.values()) < TOLERANCE, differences


@variants
def test_an_exported_import_is_the_file_again(variant, torch_reference, export_again, tmp_path):
    reference = torch_reference("gpt_neox", **VARIANTS[variant])
    before, after = export_again(reference, tmp_path)
    assert read_huggingface_config(tmp_path) == read_huggingface_config(reference[0])
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, name)


def test_a_model_of_this_project_comes_back_bit_for_bit(round_trip_own, tmp_path):
    config = ModelConfig(
        vocab_size=101,
        num_layers=3,
        embed_dim=24,
        num_heads=3,
        positions="rotary",
        rotary_fraction=0.5,
        parallel_residual=True,
        activation="gelu",
        tie_embeddings=False,
        head="lm",
        causal=True,
    )
    assert round_trip_own(config, tmp_path).family == "gpt_neox"


def test_old_files_name_the_output_matrix_otherwise_and_hold_buffers(torch_reference, tmp_path):
    directory, _ = torch_reference("gpt_neox")
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("embed_out.weight")
    for layer in range(3):
        attention = f"gpt_neox.layers.{layer}.attention"
        tensors[f"{attention}.bias"] = np.ones((1, 1, 40, 40), np.uint8)
        tensors[f"{attention}.masked_bias"] = np.array(-1e9, np.float32)
        tensors[f"{attention}.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    expected, found = load_huggingface(directory), load_huggingface(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


def test_transformers_4_keeps_rotary_settings_beside_the_others():
    old = {"rotary_pct": 0.5, "rotary_emb_base": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {
        "rope_parameters": {
            "rope_type": "linear",
            "rope_theta": 500.0,
            "partial_rotary_factor": 0.5,
            "factor": 2.0,
        }
    }
    configs = [DESCRIPTION.read_config(settings, "lm", frozenset()) for settings in (old, new)]
    assert configs[0] == configs[1]
    assert (configs[0].rope_theta, configs[0].rotary_fraction, configs[0].rope_factor) == (500.0, 0.5, 2.0)
    assert DESCRIPTION.read_config({}, "lm", frozenset()).rotary_fraction == 0.25


@pytest.mark.parametrize(
    ("width", "layers", "heads", "count"),
    [
        (512, 6, 8, 70_426_624),
        (768, 12, 12, 162_322_944),
        (1024, 24, 16, 405_334_016),
    ],
)
def test_published_sizes_have_their_published_number_of_parameters(width, layers, heads, count):
    settings = {
        "vocab_size": 50304,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }
    assert count_params(DESCRIPTION.read_config(settings, "lm", frozenset())) == count


def test_an_empty_config_json_has_the_defaults_of_transformers():
    theirs = transformers.AutoConfig.for_model("gpt_neox").to_dict()
    config = DESCRIPTION.read_config({}, "lm", frozenset())
    assert config == DESCRIPTION.read_config(theirs, "lm", frozenset())
    assert config == DESCRIPTION.read_config(DESCRIPTION.write_config(config), "lm", frozenset())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rope_scaling": {"type": "ntk", "factor": 2.0}}, "rotary scaling 'ntk'"),
        ({"rope_scaling": {"type": "linear"}}, "lacks 'factor'"),
        ({"hidden_act": "gelu_10"}, "hidden_act='gelu_10'"),
        ({"rotary_pct": 0.04}, "rotary positions turn pairs"),
    ],
)
def test_settings_that_the_model_lacks_are_refused_in_one_line(settings, named):
    with pytest.raises(ValueError, match=named) as error:
        DESCRIPTION.read_config(settings, "lm", frozenset())
    assert "\n" not in str(error.value)
