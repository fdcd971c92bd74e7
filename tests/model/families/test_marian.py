"""The original Transformer as Marian stores it: outputs equal torch's, files go back and forth unchanged."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxmill.model.config import ModelConfig
from flaxmill.model.families.marian import DESCRIPTION
from flaxmill.model.functional import apply, count_params, init_params
from flaxmill.model.huggingface.directory import load_huggingface, save_huggingface
from flaxmill.train.parity.batches import make_parity_batch

pytestmark = pytest.mark.slow  # every head builds a torch model and one of ours

TOLERANCE = 2e-5  # float32 holds 7 digits; measured are 2e-6 for outputs up to 4
VARIANTS = {
    "swish": {},
    "relu, unscaled, wider encoder": {
        "activation_function": "relu",
        "scale_embedding": False,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "encoder_ffn_dim": 60,
        "decoder_ffn_dim": 28,
        "encoder_attention_heads": 5,
        "decoder_attention_heads": 2,
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_equal_torchs(variant, torch_reference, output_differences):
    differences = output_differences(torch_reference("marian", **VARIANTS[variant]))
    assert max(differences.values()) < TOLERANCE, differences


def test_left_padding_moves_nothing(torch_reference):
    # transformers counts Marian's positions from the padding on, so there rows are padded on the right.
    config, params = load_huggingface(torch_reference("marian")[0])
    right = make_parity_batch(config, "right", seed=0).ours
    left = {name: np.flip(right[name], 1) for name in ("mask", "decoder_mask")}
    for name, mask in (("tokens", "mask"), ("decoder_tokens", "decoder_mask")):
        left[name] = np.zeros_like(right[name])
        left[name][left[mask] > 0] = right[name][right[mask] > 0]
    run = jax.jit(lambda batch: apply(config, params, batch)["logits"])
    logits = [
        np.asarray(run({name: batch[name] for name in left}))[batch["decoder_mask"] > 0]
        for batch in (left, right)
    ]
    np.testing.assert_allclose(logits[0], logits[1], atol=TOLERANCE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_exported_import_is_the_file_again(
    variant, torch_reference, export_again, tmp_path, read_settings
):
    reference = torch_reference("marian", **VARIANTS[variant])
    before, after = export_again(reference, tmp_path)
    assert before.keys() == after.keys()
    assert before["final_logits_bias"].shape == (1, 101)
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, name)
    settings = [read_settings(path) for path in (reference[0], tmp_path)]
    added = {"static_position_embeddings": True}
    assert {key: settings[0].get(key) for key in settings[1]} | added == settings[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_torchs_and_the_bias_of_the_logits(variant, torch_reference):
    directory, model = torch_reference("marian", **VARIANTS[variant])
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert count_params(load_huggingface(directory)[0]) == trained + 101


def test_a_model_of_this_project_comes_back_bit_for_bit(tmp_path):
    config = ModelConfig(
        vocab_size=101, max_positions=17, embed_dim=24, num_heads=3, encoder_layers=1, head="lm", causal=True,
        norm_position="post", positions="sinusoidal", activation="relu", head_bias=True, pad_id=7,
    )  # fmt: skip
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(1))
    save_huggingface(tmp_path, config, params)
    found, loaded = load_huggingface(tmp_path)
    assert (found.family, found.scales_embeddings, found.decoder_start_id) == ("marian", True, 7)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_files_of_the_hub_hold_copies_and_sinusoidal_tables(torch_reference, tmp_path):
    directory, _ = torch_reference("marian")
    tensors = load_file(directory / "model.safetensors")
    for name in ("model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"):
        tensors[f"{name}.weight"] = tensors["model.shared.weight"]
    for name in ("encoder", "decoder"):
        tensors[f"model.{name}.embed_positions.weight"] = np.ones((40, 30), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    expected, found = load_huggingface(directory), load_huggingface(tmp_path)
    assert found[0] == expected[0]
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings=False"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({"static_position_embeddings": False}, "static_position_embeddings=False"),
        ({"decoder_vocab_size": 99}, "decoder_vocab_size=99"),
        ({"activation_function": "tanh"}, "activation_function='tanh'"),
        ({"encoder_layerdrop": 0.1}, "encoder_layerdrop=0.1"),
        ({"activation_dropout": 0.1}, "activation_dropout=0.1"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder=False"),
        ({"d_model": 15, "encoder_attention_heads": 5, "decoder_attention_heads": 3}, "embed_dim=15 is odd"),
    ],
)
def test_settings_that_the_model_lacks_are_refused_in_one_line(settings, named):
    with pytest.raises(ValueError, match=named) as error:
        DESCRIPTION.read_config(settings, "lm", frozenset())
    assert "\n" not in str(error.value)
