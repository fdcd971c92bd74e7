"""config.json of LLaMA, Mistral, Qwen2 and Qwen3 is read in both spellings, and sizes count right."""

import pytest

from flaxmill.model.families.table import FAMILIES
from flaxmill.model.functional import count_params

pytestmark = pytest.mark.slow

LLAMA_31_ROPE = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)


def read(family, settings):
    return FAMILIES[family].read_config(settings, "lm", frozenset())


@pytest.mark.parametrize(
    ("family", "sizes", "others", "count"),
    [
        ("llama", (4096, 11008, 32, 32, None), {}, 6_738_415_616),
        ("llama", (8192, 28672, 80, 64, 8), {}, 68_976_648_192),  # 2-70B
        ("llama", (4096, 14336, 32, 32, 8), {"vocab_size": 128256}, 8_030_261_248),  # 3-8B
        ("llama", (8192, 28672, 80, 64, 8), {"vocab_size": 128256}, 70_553_706_496),
        ("llama", (16384, 53248, 126, 128, 8), {"vocab_size": 128256}, 405_853_388_800),  # 3.1
        (
            "llama",  # 3.2-1B
            (2048, 8192, 16, 32, 8),
            {"vocab_size": 128256, "head_dim": 64, "tie_word_embeddings": True},
            1_235_814_400,
        ),
        ("llama", (2048, 5632, 22, 32, 4), {}, 1_100_048_384),  # TinyLlama
        ("mistral", (4096, 14336, 32, 32, 8), {}, 7_241_732_096),  # 7B v0.1
        ("qwen2", (896, 4864, 24, 14, 2), {"tie_word_embeddings": True}, 494_032_768),  # 2.5-0.5B
        (
            "qwen3",  # 0.6B
            (1024, 3072, 28, 16, 8),
            {"head_dim": 128, "tie_word_embeddings": True},
            596_049_920,
        ),
    ],
)
def test_published_sizes_have_their_published_number_of_parameters(family, sizes, others, count):
    settings = dict(zip(SIZES, sizes, strict=True)) | others
    assert count_params(read(family, settings)) == count


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    ("scaling", "fields"),
    [
        (None, {}),
        ({"rope_type": "default"}, {}),
        ({"type": "linear", "factor": 4.0}, {"rope_scaling": "linear", "rope_factor": 4.0}),
        (
            {"rope_type": "llama3", **LLAMA_31_ROPE, "factor": 32.0},
            {
                "rope_scaling": "llama3",
                "rope_factor": 32.0,
                "rope_high_frequency_factor": 4.0,
                "rope_original_positions": 8192,
            },
        ),
    ],
)
def test_rotary_settings_of_transformers_4_and_5_say_the_same(family, scaling, fields):
    old = read(family, {"rope_theta": 5e5, "rope_scaling": scaling})
    new = read(family, {"rope_parameters": {"rope_theta": 5e5, **(scaling or {})}})
    assert old == new
    assert old.rope_theta == 5e5
    assert {name: getattr(old, name) for name in fields} == fields
    assert (old.rope_scaling == "none") == (not fields)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_an_empty_config_json_has_the_defaults_of_transformers(family):
    import transformers

    theirs = transformers.AutoConfig.for_model(family).to_dict()
    assert read(family, {}) == read(family, theirs)
    assert read(family, FAMILIES[family].write_config(read(family, {}))) == read(family, {})


def test_llama3_stretches_from_max_position_embeddings_where_nothing_else_is_said():
    scaling = {
        key: value for key, value in LLAMA_31_ROPE.items() if key != "original_max_position_embeddings"
    }
    settings = {"max_position_embeddings": 512, "rope_scaling": {"rope_type": "llama3", **scaling}}
    assert read("llama", settings).rope_original_positions == 512


@pytest.mark.parametrize(
    ("family", "settings", "pattern"),
    [
        ("mistral", {}, ("local",)),
        ("mistral", {"sliding_window": None}, ()),
        ("llama", {"sliding_window": 8}, ()),  # a key that LLaMA does not have
        ("qwen2", {"sliding_window": 8}, ()),  # off by default
        ("qwen2", {"use_sliding_window": True}, ()),  # from layer 28 on
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 0}, ("local",)),
        (
            "qwen2",
            {"use_sliding_window": True, "max_window_layers": 1},
            ("global", "local", "local", "local"),
        ),
        (
            "qwen3",
            {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"] * 2},
            ("local", "global"),
        ),
    ],
)
def test_layers_are_local_where_the_family_says(family, settings, pattern):
    config = read(family, {"num_hidden_layers": 4, **settings})
    assert config.layer_pattern == pattern
    assert config.window == (4096 if "local" in pattern else None)
    assert read(family, FAMILIES[family].write_config(config)) == config


def test_several_ends_of_a_sequence_become_the_first():
    config = read("llama", {"eos_token_id": [128001, 128008], "vocab_size": 128256, "pad_token_id": -1})
    assert (config.eos_id, config.pad_id) == (128001, None)


@pytest.mark.parametrize(
    ("family", "settings", "named"),
    [
        ("llama", {"rope_scaling": {"type": "su", "factor": 2.0}}, "rotary scaling 'su'"),
        ("llama", {"rope_parameters": {"rope_type": "proportional"}}, "rotary scaling 'proportional'"),
        ("llama", {"rope_scaling": {"type": "longrope"}}, "rotary scaling 'longrope' lacks"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "lacks 'low_freq_factor'"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ("mistral", {"hidden_act": "gelu_10"}, "hidden_act='gelu_10'"),
        ("qwen2", {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]}, "layer_types"),
        ("qwen3", {"num_hidden_layers": 1, "layer_types": ["chunked_attention"]}, "layer_types"),
        ("qwen3", {"num_hidden_layers": 2, "layer_types": ["full_attention"]}, "layer_types"),
        ("llama", {"num_attention_heads": 6, "num_key_value_heads": 4, "head_dim": 8}, "num_kv_heads=4"),
    ],
)
def test_settings_that_the_model_lacks_are_refused_in_one_line(family, settings, named):
    with pytest.raises(ValueError, match=named) as error:
        read(family, settings)
    assert "\n" not in str(error.value)
