"""Stretched rotary positions turn as in transformers, and each document turns by its own length alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model import ModelConfig, apply, init_params
from flaxmill.model.families.table import FAMILIES
from flaxmill.model.layers.positions import document_lengths, rotary_turns
from flaxmill.model.layers.rotary_scaling import rotary_factor

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 32,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.5],
}
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {
        **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "original_max_position_embeddings": 32,
    },
    "yarn": YARN,
    "yarn, betas": YARN | {"beta_fast": 8, "beta_slow": 2.5},
    "yarn, betas of 0": YARN | {"beta_fast": 0, "beta_slow": 0},
    "yarn, not truncated": YARN | {"truncate": False},
    "yarn, attention factor": YARN | {"attention_factor": 1.7},
    "yarn, mscale": YARN | {"mscale": 0.7, "mscale_all_dim": 1.2},
    "yarn, mscale alone": YARN | {"mscale": 0.7},
    "yarn, mscale of 0": YARN | {"mscale": 0.7, "mscale_all_dim": 0.0},
    "yarn, factor from the lengths": YARN | {"factor": None},
    "yarn, factor below 1": YARN | {"factor": 0.5},
    "yarn, no original length": {"rope_type": "yarn", "factor": 4.0},
    "yarn, short original": YARN | {"original_max_position_embeddings": 2},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "dynamic, original length unread": {
        **{"rope_type": "dynamic", "factor": 3.0, "original_max_position_embeddings": 8}
    },
    "longrope": LONGROPE,
    "longrope, factor": LONGROPE | {"factor": 9.0},
    "longrope, factor of 1": LONGROPE | {"factor": 1.0},
    "longrope, attention factor": LONGROPE | {"factor": 9.0, "attention_factor": 1.3},
}
SIZES = {"hidden_size": 32, "num_attention_heads": 2, "max_position_embeddings": 64, "vocab_size": 101}


def read(family: str, settings: dict[str, Any]) -> ModelConfig:
    return FAMILIES[family].read_config(SIZES | settings, "lm", frozenset())


def reference_turns(config: Any, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of the first row that transformers' LLaMA reads."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    positions = torch.arange(length)[None]
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), positions)
    return cos[0].numpy(), sin[0].numpy()


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("length", [16, 32, 33, 64, 65, 150])
def test_turns_are_those_of_transformers_at_every_length(name, length):
    import transformers

    transformers.logging.set_verbosity_error()
    rope = {"rope_theta": 1000.0, **SCALINGS[name]}
    theirs: Any = transformers.AutoConfig.for_model("llama", **SIZES, rope_parameters=dict(rope))
    ours = read("llama", {"rope_parameters": rope})
    positions_1T = jnp.arange(length)[None]
    turns = rotary_turns(ours, "global", positions_1T, jnp.full_like(positions_1T, length))
    for mine, expected in zip(turns, reference_turns(theirs, length), strict=True):
        # float32 frequencies, ours and torch's, are off by 1e-7, and a position multiplies that.
        np.testing.assert_allclose(np.tile(mine[0, :, 0], 2), expected, atol=4e-7 * length)


@pytest.mark.parametrize("inside", [None, 16])
@pytest.mark.parametrize("beside", [None, 32])
def test_the_original_length_beside_the_rotary_values_has_precedence(inside, beside):
    import transformers

    transformers.logging.set_verbosity_error()
    rope = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0}
    rope |= {} if inside is None else {"original_max_position_embeddings": inside}
    settings = {"rope_parameters": rope}
    settings |= {} if beside is None else {"original_max_position_embeddings": beside}
    ours = read("llama", settings)
    theirs: Any = transformers.AutoConfig.for_model("llama", **SIZES, **settings)
    theirs.standardize_rope_params()
    assert ours.rope_original_positions == theirs.rope_parameters["original_max_position_embeddings"]
    assert ours.rope_original_positions == (beside or inside or 64)


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gpt_neox"])
def test_what_is_written_reads_as_the_same_scaling(name, family):
    scaling = SCALINGS[name]
    fraction = {"partial_rotary_factor": 1.0} if family == "gpt_neox" else {}
    settings = {"rope_parameters": {"rope_theta": 500.0, **scaling, **fraction}}
    settings |= {} if family == "gpt_neox" else {"num_key_value_heads": 2, "head_dim": 16}
    config = read(family, settings)
    written = FAMILIES[family].write_config(config)
    again = FAMILIES[family].read_config(written, "lm", frozenset())
    assert again == config
    assert rotary_factor(again, "global") == rotary_factor(config, "global")


@pytest.mark.parametrize(
    ("sliding", "layers"),
    [({"rope_type": "default", "rope_theta": 10.0}, "global"), ({**YARN, "rope_theta": 10.0}, "all")],
)
def test_modernbert_stretches_the_layers_that_its_file_says(sliding, layers):
    rope = {"full_attention": {**YARN, "rope_theta": 1000.0}, "sliding_attention": sliding}
    config = FAMILIES["modernbert"].read_config(SIZES | {"rope_parameters": rope}, "mlm", frozenset())
    assert (config.rope_scaling, config.rope_scaled_layers) == ("yarn", layers)
    assert rotary_factor(config, "local") == (1.0 if layers == "global" else rotary_factor(config, "global"))
    written = FAMILIES["modernbert"].write_config(config)
    assert FAMILIES["modernbert"].read_config(written, "mlm", frozenset()) == config


@pytest.mark.parametrize(
    ("family", "rope", "said"),
    [
        ("llama", {"rope_type": "ntk"}, "rotary scaling 'ntk' is not supported"),
        ("llama", {"rope_type": ["yarn"]}, r"rotary scaling \['yarn'\] is not supported"),
        ("llama", {"rope_type": "linear"}, "'linear' lacks 'factor'"),
        ("llama", {**YARN, "factor": "4"}, "factor='4' must be a number"),
        ("llama", {**YARN, "factor": -4}, r"rope_factor=-4.0 must be a positive number"),
        ("llama", {**YARN, "beta_fast": 1, "beta_slow": 2}, "rope_beta_slow=2.0 must be at most"),
        ("llama", {**YARN, "truncate": "no"}, "truncate='no' must be true or false"),
        ("llama", {**YARN, "attention_factor": 0.0}, "rope_attention_factor=0.0 must be a positive"),
        ("llama", {**LONGROPE, "short_factor": [1.0]}, "rope_short_factors has 1 numbers"),
        ("llama", {**LONGROPE, "long_factor": 2.0}, "long_factor=2.0 must be a list of numbers"),
        ("llama", {"rope_type": "longrope"}, "lacks 'short_factor'"),
        ("llama", {"full_attention": YARN}, "rope_parameters.full_attention is not supported"),
        ("llama", "yarn", "rope_parameters='yarn' must be an object"),
        ("llama", {"rope_theta": "x"}, "rope_theta='x' must be a number"),
        ("modernbert", YARN, "rope_parameters.rope_type is not supported"),
        ("modernbert", {"full_attention": {**YARN, "truncate": False}}, "truncate=False is not supported"),
        ("modernbert", {"sliding_attention": YARN}, "sliding_attention and full_attention have different"),
    ],
)
def test_rotary_values_that_cannot_be_are_refused_in_one_line(family, rope, said):
    with pytest.raises(ValueError, match=said) as error:
        FAMILIES[family].read_config(SIZES | {"rope_parameters": rope}, "none", frozenset())
    assert "\n" not in str(error.value)


def test_lengths_are_those_of_each_document_whatever_its_number():
    documents_BT = jnp.array([[7, 7, 7, 2, 2, 0, 0], [0, 0, 1, 1, 1, 1, 1], [900, 900, 3, 3, 3, 900, 900]])
    positions_BT = jnp.array([[0, 1, 2, 0, 1, 2, 3], [0, 0, 0, 1, 2, 3, 4], [0, 1, 0, 1, 2, 2, 3]])
    lengths = document_lengths(documents_BT, positions_BT)
    expected = [[3, 3, 3, 2, 2, 4, 4], [1, 1, 5, 5, 5, 5, 5], [4, 4, 3, 3, 3, 4, 4]]
    np.testing.assert_array_equal(lengths, expected)


@pytest.mark.parametrize(("name", "length"), [("dynamic", 100), ("longrope", 24)])
def test_a_document_is_turned_by_its_own_length_in_any_company(name, length):
    config = read(
        "llama", {"num_hidden_layers": 2, "intermediate_size": 40, "rope_parameters": SCALINGS[name]}
    )
    params = init_params(config, jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, 101, 150)
    run = jax.jit(lambda batch: apply(config, params, batch)["hidden"])
    alone = run({"tokens": tokens[None, :length]})[0]
    # Next to a longer row, and before another document in its own row.
    documents = np.stack([np.repeat([1, 2], [length, 150 - length]), np.ones(150, np.int64)])
    together = run({"tokens": np.stack([tokens, tokens]), "documents": documents})
    np.testing.assert_allclose(together[0, :length], alone, atol=2e-6)
    assert np.abs(together[1, :length] - alone).max() > 1e-4, "a longer document turns otherwise"
