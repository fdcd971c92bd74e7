"""BERT: outputs equal torch's, files go back and forth unchanged, published sizes count right."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxmill.model.config import ModelConfig
from flaxmill.model.families.bert import DESCRIPTION
from flaxmill.model.functional import count_params, init_params
from flaxmill.model.huggingface.directory import load_huggingface, save_huggingface

pytestmark = pytest.mark.slow  # every head builds a torch model and one of ours

TOLERANCE = 2e-5  # float32 holds 7 digits; measured are 2e-6 for outputs up to 5
VARIANTS = {
    "mlm": {},
    "mlm_nsp": {"architecture": "BertForPreTraining"},
    "classification": {"architecture": "BertForSequenceClassification", "num_labels": 3},
    "token_classification, gelu_new": {
        "architecture": "BertForTokenClassification",
        "num_labels": 3,
        "hidden_act": "gelu_new",
        "type_vocab_size": 3,
    },
    "qa": {"architecture": "BertForQuestionAnswering"},
    "none": {"architecture": "BertModel"},
}
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_equal_torchs(variant, torch_reference, output_differences):
    differences = output_differences(torch_reference("bert", **VARIANTS[variant]))
    assert max(differences.values()) < TOLERANCE, differences


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_exported_import_is_the_file_again(
    variant, torch_reference, export_again, tmp_path, read_settings
):
    reference = torch_reference("bert", **VARIANTS[variant])
    before, after = export_again(reference, tmp_path)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, name)
    settings = [read_settings(path) for path in (reference[0], tmp_path)]
    assert {key: settings[0][key] for key in settings[1]} == settings[1]


def test_a_model_of_this_project_comes_back_bit_for_bit(tmp_path):
    config = ModelConfig(
        vocab_size=101, max_positions=17, embed_dim=24, num_heads=3, num_layers=3, num_segments=2,
        head="mlm_nsp", causal=False, norm_position="post", embedding_norm=True, activation="gelu", pad_id=7,
    )  # fmt: skip
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(1))
    save_huggingface(tmp_path, config, params)
    found, loaded = load_huggingface(tmp_path)
    assert (found.family, found.pad_id, found.eos_id) == ("bert", 7, None)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_an_untied_decoder_has_its_own_matrix_and_bias(torch_reference, output_differences):
    reference = torch_reference("bert", tie_word_embeddings=False)
    differences = output_differences(reference)
    assert max(differences.values()) < TOLERANCE, differences
    params = load_huggingface(reference[0])[1]
    tensors = load_file(reference[0] / "model.safetensors")
    np.testing.assert_array_equal(params["mlm"]["kernel"][:101], tensors["cls.predictions.decoder.weight"])
    np.testing.assert_array_equal(params["mlm"]["bias"][:101], tensors["cls.predictions.decoder.bias"])


def test_files_of_the_first_years_load(torch_reference, tmp_path):
    # Like bert-base-uncased: pretraining's tensors under BertForMaskedLM; gamma and beta, copies, buffers.
    directory, _ = torch_reference("bert", architecture="BertForPreTraining")
    tensors = load_file(directory / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in tensors.items()
    }
    old["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    old["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    old["bert.embeddings.position_ids"] = np.arange(40)[None]
    save_file(old, tmp_path / "model.safetensors")
    settings = json.loads((directory / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    config, params = load_huggingface(tmp_path)
    expected = load_huggingface(directory, head="mlm")
    assert config == expected[0]
    jax.tree.map(np.testing.assert_array_equal, params, expected[1])


def test_the_prefix_of_the_body_may_lack_or_be_too_much(torch_reference, tmp_path):
    directory, _ = torch_reference("bert", architecture="BertModel")
    expected = load_huggingface(directory)
    tensors = load_file(directory / "model.safetensors")
    save_file({f"bert.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    config, params = load_huggingface(tmp_path)
    assert config == expected[0]
    jax.tree.map(np.testing.assert_array_equal, params, expected[1])
    body = load_huggingface(directory, head="mlm")[1]
    jax.tree.map(np.testing.assert_array_equal, body["layers"], params["layers"])


def test_an_encoder_saved_without_its_pooler_has_none(torch_reference, tmp_path):
    directory, _ = torch_reference("bert", architecture="BertModel")
    tensors = load_file(directory / "model.safetensors")
    bare = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler")}
    save_file(bare, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    config, params = load_huggingface(tmp_path)
    assert config.pooler_kind == "none"
    assert "pooler" not in params


@pytest.mark.parametrize(
    ("settings", "head", "count"),
    [
        ({}, "none", 109_482_240),
        ({}, "mlm_nsp", 110_106_428),
        ({}, "mlm", 109_514_298),
        ({}, "classification", 109_483_778),
        ({}, "qa", 108_893_186),
        (LARGE, "none", 335_141_888),
        (LARGE, "mlm_nsp", 336_226_108),
    ],
)
def test_published_sizes_have_their_published_number_of_parameters(settings, head, count):
    assert count_params(DESCRIPTION.read_config(settings, head, frozenset())) == count


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ({"is_decoder": True}, "is_decoder=True"),
        ({"add_cross_attention": True}, "add_cross_attention=True"),
        ({"hidden_act": "quick_gelu"}, "hidden_act='quick_gelu'"),
    ],
)
def test_settings_that_the_model_lacks_are_refused_in_one_line(settings, named):
    with pytest.raises(ValueError, match=named) as error:
        DESCRIPTION.read_config(settings, "mlm", frozenset())
    assert "\n" not in str(error.value)


def test_a_model_without_segments_is_no_bert(tmp_path):
    config = ModelConfig(
        family="bert", vocab_size=101, max_positions=17, embed_dim=24, num_heads=3, head="mlm", causal=False,
        norm_position="post", embedding_norm=True, activation="gelu",
    )  # fmt: skip
    with pytest.raises(ValueError, match="num_segments is 1 and not 0"):
        save_huggingface(tmp_path, config, {})
