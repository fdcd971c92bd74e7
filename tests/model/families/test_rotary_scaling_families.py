"""Every family whose positions are rotary stretches them as transformers does, and exports what it read."""

import numpy as np
import pytest

from flaxmill.model.huggingface.directory import read_huggingface_config

pytestmark = pytest.mark.slow  # every test builds a torch model and one of ours

TOLERANCE = 2e-5  # float32 holds 7 digits; another order of sums costs one or two
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 3.0}
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 1000.0, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 16},
}
YARN = {
    **{"rope_type": "yarn", "rope_theta": 10.0, "factor": 4.0, "original_max_position_embeddings": 10},
    **{"beta_fast": 0.8, "beta_slow": 0.2},
}
SHORT = {"max_position_embeddings": 12}  # parity's rows are longer


def longrope(num_pairs: int) -> dict:
    return {
        **{"rope_type": "longrope", "rope_theta": 1000.0, "factor": 4.0},
        **{"original_max_position_embeddings": 12, "short_factor": [1.0, 1.1, 1.3, 1.5][:num_pairs]},
        "long_factor": [1.5, 2.0, 3.0, 4.5][:num_pairs],
    }


def on_both(rope: dict) -> dict:
    return {
        "rope_parameters": {"full_attention": {**rope}, "sliding_attention": {**rope, "rope_theta": 100.0}}
    }


def on_half(rope: dict) -> dict:
    return {"rope_parameters": {**rope, "partial_rotary_factor": 0.5}}


MODELS = {
    "llama": {"yarn": {"rope_parameters": YARN}, "dynamic": {"rope_parameters": DYNAMIC, **SHORT}},
    "mistral": {"yarn": {"rope_parameters": YARN}, "dynamic": {"rope_parameters": DYNAMIC, **SHORT}},
    "qwen2": {"yarn": {"rope_parameters": YARN}, "linear": {"rope_parameters": LINEAR}},
    "qwen3": {"longrope": {"rope_parameters": longrope(4)}, "dynamic": {"rope_parameters": DYNAMIC, **SHORT}},
    "gpt_neox": {
        "dynamic": {**on_half(DYNAMIC), **SHORT},
        "longrope": on_half(longrope(2)),
        "llama3": on_half(LLAMA3),
    },
    "modernbert": {
        "yarn": on_both(YARN),
        "dynamic": {**on_both(DYNAMIC), **SHORT},
        "longrope": on_both(longrope(3)),
        "llama3": on_both(LLAMA3),
        "linear": on_both(LINEAR),
    },
}
models = pytest.mark.parametrize(
    ("family", "kind"), [(name, kind) for name in MODELS for kind in MODELS[name]]
)


@models
def test_outputs_equal_torchs_beyond_the_original_context(family, kind, torch_reference, output_differences):
    reference = torch_reference(family, **MODELS[family][kind])
    assert read_huggingface_config(reference[0]).rope_scaling == kind
    differences = output_differences(reference)
    assert max(differences.values()) < TOLERANCE, differences


@models
def test_an_exported_import_is_the_model_again(family, kind, torch_reference, export_again, tmp_path):
    reference = torch_reference(family, **MODELS[family][kind])
    before, after = export_again(reference, tmp_path)
    assert read_huggingface_config(tmp_path) == read_huggingface_config(reference[0])
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, name)
