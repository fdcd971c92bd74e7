"""RoBERTa: outputs equal torch's, files go back and forth unchanged, the published size counts right."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxmill.model.families.roberta import DESCRIPTION
from flaxmill.model.functional import count_params
from flaxmill.model.huggingface.directory import load_huggingface

pytestmark = pytest.mark.slow  # every head builds a torch model and one of ours

TOLERANCE = 2e-5  # float32 holds 7 digits; measured are 2e-6 for outputs up to 5
VARIANTS = {
    "mlm": {},
    "mlm, padding 5": {"pad_token_id": 5, "max_position_embeddings": 46},
    "classification": {"architecture": "RobertaForSequenceClassification", "num_labels": 3},
    "classification, relu": {"architecture": "RobertaForSequenceClassification", "hidden_act": "relu"},
    "token_classification": {"architecture": "RobertaForTokenClassification", "num_labels": 3},
    "qa": {"architecture": "RobertaForQuestionAnswering", "type_vocab_size": 2},
    "none": {"architecture": "RobertaModel"},
}
BASE = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_equal_torchs(variant, torch_reference, output_differences):
    differences = output_differences(torch_reference("roberta", **VARIANTS[variant]))
    assert max(differences.values()) < TOLERANCE, differences


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_exported_import_is_the_file_again(
    variant, torch_reference, export_again, tmp_path, read_settings
):
    reference = torch_reference("roberta", **VARIANTS[variant])
    before, after = export_again(reference, tmp_path)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, name)
    settings = [read_settings(path) for path in (reference[0], tmp_path)]
    assert {key: settings[0][key] for key in settings[1]} == settings[1]


def test_positions_begin_one_after_the_padding_s_id(torch_reference):
    config, params = load_huggingface(torch_reference("roberta")[0])
    assert (config.position_offset, config.max_positions) == (2, 40)
    assert params["embed"]["positions"]["embedding"].shape == (42, 30)


def test_an_untied_decoder_has_its_own_matrix_and_bias(torch_reference, output_differences):
    differences = output_differences(torch_reference("roberta", tie_word_embeddings=False))
    assert max(differences.values()) < TOLERANCE, differences


def test_files_of_the_hub_hold_copies_buffers_and_a_pooler(torch_reference, tmp_path):
    directory, _ = torch_reference("roberta")
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.decoder.weight"] = tensors["roberta.embeddings.word_embeddings.weight"]
    tensors["lm_head.decoder.bias"] = tensors["lm_head.bias"]
    tensors["roberta.embeddings.position_ids"] = np.arange(42)[None]
    tensors["roberta.pooler.dense.weight"] = np.ones((30, 30), np.float32)
    tensors["roberta.pooler.dense.bias"] = np.ones(30, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    expected, found = load_huggingface(directory), load_huggingface(tmp_path)
    assert found[0] == expected[0]
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


def test_a_classifier_s_dense_layer_is_our_pooler(torch_reference):
    directory, _ = torch_reference("roberta", **VARIANTS["classification"])
    tensors, params = load_file(directory / "model.safetensors"), load_huggingface(directory)[1]
    np.testing.assert_array_equal(
        params["pooler"]["transform"]["kernel"], tensors["classifier.dense.weight"].T
    )
    np.testing.assert_array_equal(params["classifier"]["kernel"], tensors["classifier.out_proj.weight"].T)


def test_the_published_size_has_its_published_number_of_parameters():
    assert count_params(DESCRIPTION.read_config(BASE, "mlm", frozenset())) == 124_697_433


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"position_embedding_type": "relative_key_query"}, "position_embedding_type='relative_key_query'"),
        ({"is_decoder": True}, "is_decoder=True"),
        ({"add_cross_attention": True}, "add_cross_attention=True"),
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"pad_token_id": None}, "pad_token_id=null"),
    ],
)
def test_settings_that_the_model_lacks_are_refused_in_one_line(settings, named):
    with pytest.raises(ValueError, match=named) as error:
        DESCRIPTION.read_config(settings, "mlm", frozenset())
    assert "\n" not in str(error.value)
