"""Mistral, Qwen2 and Qwen3: outputs equal torch's, and files go back and forth unchanged."""

import numpy as np
import pytest

from flaxmill.model.huggingface.directory import read_huggingface_config

pytestmark = pytest.mark.slow  # every head builds a torch model and one of ours

TOLERANCE = 2e-5  # float32 holds 7 digits; another order of sums costs one or two
WINDOW = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
ALTERNATING = WINDOW | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
LABELLED = {"pad_token_id": 0, "num_labels": 3}
VARIANTS = {
    "mistral": {},
    "mistral, global": {"sliding_window": None},
    "mistral, classification": {"architecture": "MistralForSequenceClassification", **LABELLED},
    "mistral, qa": {"architecture": "MistralForQuestionAnswering"},
    "qwen2": {},
    "qwen2, last layers local": WINDOW,
    "qwen2, token_classification": {"architecture": "Qwen2ForTokenClassification", **LABELLED},
    "qwen2, qa": {"architecture": "Qwen2ForQuestionAnswering"},
    "qwen3": {},
    "qwen3, alternating, biases": ALTERNATING | {"attention_bias": True},
    "qwen3, classification": {"architecture": "Qwen3ForSequenceClassification", **LABELLED},
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
