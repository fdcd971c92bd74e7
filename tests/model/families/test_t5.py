"""T5 1.0 and 1.1: outputs equal torch's, files go back and forth unchanged, published sizes count right."""

import copy
import json
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxmill.model.families.t5 import DESCRIPTION
from flaxmill.model.functional import count_params
from flaxmill.model.huggingface.directory import load_huggingface, save_huggingface

pytestmark = pytest.mark.slow  # every head builds a torch model and one of ours

TOLERANCE = 2e-5  # float32 holds 7 digits, and attention without scaling costs one more: 1e-5 measured
VARIANTS = {
    "1.0": {},
    "as deep as the encoder": {"num_decoder_layers": None, "relative_attention_num_buckets": 4},
    "gated silu, scaled": {"feed_forward_proj": "gated-silu"},
}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
SMALL_1_1 = V1_1 | {"d_ff": 1024, "num_layers": 8, "num_heads": 6}
BASE = {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 3072}
BASE_1_1 = BASE | V1_1 | {"d_ff": 2048}
LM_HEAD = frozenset({"shared.weight", "lm_head.weight"})


@pytest.fixture(scope="module")
def version_1_1(torch_reference, tmp_path_factory):
    """(directory, torch model) of T5 1.1, with a head that is drawn as small as t5x draws it."""
    import torch

    model = copy.deepcopy(torch_reference("t5_v1_1")[1])
    with torch.no_grad():  # unscaled logits of unit weights would be 30, and lose a digit
        model.lm_head.weight.mul_(30**-0.5)
    directory = tmp_path_factory.mktemp("t5_1_1")
    model.save_pretrained(directory)
    return directory, model


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_equal_torchs(variant, torch_reference, output_differences):
    differences = output_differences(torch_reference("t5", **VARIANTS[variant]))
    assert max(differences.values()) < TOLERANCE, differences


def test_outputs_of_version_1_1_equal_torchs(version_1_1, output_differences):
    differences = output_differences(version_1_1)
    assert max(differences.values()) < TOLERANCE, differences


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_exported_import_is_the_file_again(
    variant, torch_reference, export_again, tmp_path, read_settings
):
    reference = torch_reference("t5", **VARIANTS[variant])
    before, after = export_again(reference, tmp_path)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, name)
    settings = [read_settings(path) for path in (reference[0], tmp_path)]
    assert {key: settings[0].get(key) for key in settings[1]} == settings[1] | {"bos_token_id": None}


def test_an_untied_head_is_found_in_the_tensors_and_goes_back(version_1_1, tmp_path):
    import torch
    from transformers import T5ForConditionalGeneration

    directory, model = version_1_1
    # transformers 5 writes this for every T5.
    assert json.loads((directory / "config.json").read_text())["tie_word_embeddings"] is True
    config, params = load_huggingface(directory)
    assert (config.tie_embeddings, config.scale_head, config.activation) == (False, False, "gelu_tanh")
    save_huggingface(tmp_path, config, params)
    before, after = (load_file(path / "model.safetensors") for path in (directory, tmp_path))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, name)
    loaded: Any = T5ForConditionalGeneration.from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True
    )
    again, info = loaded
    assert not any(info.values())
    tokens = torch.arange(2, 20)[None]
    with torch.no_grad():
        logits = [m(input_ids=tokens, decoder_input_ids=tokens).logits for m in (model, again.eval())]
    assert torch.equal(*logits)


def test_old_files_hold_copies_of_the_shared_table(torch_reference, tmp_path):
    directory, _ = torch_reference("t5")
    tensors = load_file(directory / "model.safetensors")
    for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
        tensors[f"{name}.weight"] = tensors["shared.weight"]
    bias = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    save_file(tensors | {bias: np.ones((8, 3), np.float32)}, tmp_path / "model.safetensors")
    settings = json.loads((directory / "config.json").read_text())
    old = {key: settings[key] for key in settings if key not in ("scale_decoder_outputs", "dense_act_fn")}
    del old["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    expected, found = load_huggingface(directory), load_huggingface(tmp_path)
    assert found[0] == expected[0]
    assert found[0].tie_embeddings
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


@pytest.mark.parametrize(
    ("spelled", "activation", "is_gated"),
    [
        ("relu", "relu", False),
        ("gelu", "gelu", False),
        ("gelu_new", "gelu_tanh", False),
        ("gated-gelu", "gelu_tanh", True),  # only T5 1.1 calls GELU's tanh form this
        ("gated-gelu_python", "gelu", True),
        ("gated-silu", "silu", True),
        ("gated-relu", "relu", True),
    ],
)
def test_feed_forward_proj_names_activation_and_gate(spelled, activation, is_gated):
    config = DESCRIPTION.read_config({"feed_forward_proj": spelled}, "lm", frozenset())
    assert (config.activation, config.gated_mlp) == (activation, is_gated)
    assert DESCRIPTION.write_config(config)["feed_forward_proj"] == spelled


@pytest.mark.parametrize(
    ("settings", "names", "count"),
    [
        ({}, frozenset(), 60_506_624),
        (BASE, frozenset(), 222_903_552),
        (SMALL_1_1, LM_HEAD, 76_961_152),
        (BASE_1_1, LM_HEAD, 247_577_856),
    ],
)
def test_published_sizes_have_their_published_number_of_parameters(settings, names, count):
    assert count_params(DESCRIPTION.read_config(settings, "lm", names)) == count


@pytest.mark.parametrize(
    ("settings", "names", "is_tied", "scales"),
    [
        ({"tie_word_embeddings": False}, frozenset(), False, False),
        ({"tie_word_embeddings": False}, LM_HEAD, False, False),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, LM_HEAD, False, False),
        ({"tie_word_embeddings": True}, LM_HEAD, False, True),
        ({"tie_word_embeddings": True}, LM_HEAD | {"encoder.embed_tokens.weight"}, True, True),
        ({}, frozenset({"lm_head.weight"}), True, True),
        ({"tie_word_embeddings": False}, LM_HEAD | {"encoder.embed_tokens.weight"}, False, False),
        ({"scale_decoder_outputs": False}, frozenset({"shared.weight"}), True, False),
    ],
)
def test_the_tensors_decide_whether_the_head_is_tied(settings, names, is_tied, scales):
    config = DESCRIPTION.read_config(settings, "lm", names)
    assert (config.tie_embeddings, config.scale_head) == (is_tied, scales)
    again = DESCRIPTION.read_config(DESCRIPTION.write_config(config), "lm", names)
    assert (again.tie_embeddings, again.scale_head) == (is_tied, scales)


def test_decoding_starts_from_the_padding_where_config_json_is_silent():
    assert DESCRIPTION.read_config({}, "lm", frozenset()).decoder_start_id == 0
    assert DESCRIPTION.read_config({"decoder_start_token_id": 3}, "lm", frozenset()).decoder_start_id == 3


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"feed_forward_proj": "gated-quick_gelu"}, "feed_forward_proj='quick_gelu'"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder=False"),
        ({"relative_attention_num_buckets": 30}, "relative_buckets=30"),
    ],
)
def test_settings_that_the_model_lacks_are_refused_in_one_line(settings, named):
    with pytest.raises(ValueError, match=named) as error:
        DESCRIPTION.read_config(settings, "lm", frozenset())
    assert "\n" not in str(error.value)
