"""A malformed config.json costs one line, no time and no memory."""

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flaxmill.model.families.table import FAMILIES
from flaxmill.model.huggingface.directory import load_huggingface, read_huggingface_config
from flaxmill.train.parity.small_models import SMALL, make_reference

SECONDS, MEGABYTES = 5.0, 300


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("models")

    def directory(name: str) -> Path:
        if not (root / name).exists():
            make_reference(name, root / name)
        return root / name

    return directory


@pytest.fixture
def with_config(models, tmp_path) -> Callable[..., Path]:
    """Makes the named model with other settings, or with another text in place of its config.json."""

    def make(name: str, config: dict[str, Any] | str | bytes) -> Path:
        source = models(name)
        (tmp_path / "model.safetensors").symlink_to(source / "model.safetensors")
        if isinstance(config, dict):
            config = json.dumps(json.loads((source / "config.json").read_text()) | config)
        data = config.encode() if isinstance(config, str) else config
        (tmp_path / "config.json").write_bytes(data)
        return tmp_path

    return make


def refusal(directory: Path, flaxmill: Callable[..., tuple[Any, str, str]]) -> str:
    """The line that an import ends in; it must be quick, and take little memory."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    code, out, err = flaxmill("import", directory, directory / "run")
    seconds = time.monotonic() - started
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert len(err) < 700
    assert not (directory / "run").exists()
    assert seconds < SECONDS, seconds
    assert kilobytes < MEGABYTES * 1000, kilobytes
    return err


HUGE = 2**31 - 1
TOO_MANY_LAYERS = {
    "gpt2": "n_layer",
    "bert": "num_hidden_layers",
    "roberta": "num_hidden_layers",
    "modernbert": "num_hidden_layers",
    "gpt_neo": "num_layers",
    "gpt_neox": "num_hidden_layers",
    "llama": "num_hidden_layers",
    "mistral": "num_hidden_layers",
    "qwen2": "num_hidden_layers",
    "qwen3": "num_hidden_layers",
    "mixtral": "num_hidden_layers",
    "qwen3_moe": "num_hidden_layers",
    "t5": "num_layers",
    "marian": "encoder_layers",
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [4, 4000, 10**9])
def test_more_layers_than_the_files_hold_are_refused(family, layers, with_config, flaxmill):
    key = TOO_MANY_LAYERS[family]
    kinds = {"layer_types": None} if "layer_types" in set(FAMILIES[family].settings.keys()) else {}
    err = refusal(with_config(family, {key: layers} | kinds), flaxmill)
    depth = 5 if family == "modernbert" else 3
    if layers > depth:
        assert f"{key}={layers} is more layers than the files hold, which have {depth}" in err
    else:
        assert "the file has parts or layers that config.json does not mention" in err


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_more_experts_than_the_files_hold_are_refused(family, with_config, flaxmill):
    names = ("num_experts", "num_local_experts")  # transformers writes either
    err = refusal(with_config(family, dict.fromkeys(names, 400)), flaxmill)
    assert "=400 is more experts than the files hold, which have" in err


def test_more_layers_are_refused_where_no_names_of_tensors_tell(tmp_path, models):
    settings = json.loads((models("gpt2") / "config.json").read_text()) | {"n_layer": 10**9}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="n_layer=1000000000 must lie between 1 and 4096"):
        read_huggingface_config(tmp_path)


@pytest.mark.parametrize(
    ("family", "types"),
    [
        ("gpt_neo", {"attention_types": [[["global"], 10**9]]}),
        ("gpt_neo", {"attention_types": [[["global", "local"], 10**30]]}),
        ("gpt_neo", {"attention_types": [["global", 3]]}),
        ("gpt_neo", {"attention_types": [[["global"], -3], [["local"], 6]]}),
        ("gpt_neo", {"attention_types": 3}),
        ("gpt_neo", {"attention_types": [[3, 1]]}),
        ("gpt_neo", {"attention_layers": "global"}),
        ("qwen2", {"layer_types": "full_attention"}),
        ("qwen2", {"layer_types": [1, 2, 3]}),
        ("qwen2", {"layer_types": {"0": "full_attention"}}),
        ("modernbert", {"layer_types": [["full_attention"]] * 5}),
        ("modernbert", {"layer_types": 5}),
    ],
)
def test_kinds_of_layers_that_make_no_sense_are_refused(family, types, with_config, flaxmill):
    newer = {"attention_layers": None} if "attention_types" in types else {}
    assert "config.json" in refusal(with_config(family, types | newer), flaxmill)


def test_whole_floats_are_whole_numbers(with_config):
    directory = with_config("gpt2", {"n_embd": 30.0, "n_layer": 3.0, "eos_token_id": 100.0})
    config, _ = load_huggingface(directory)
    assert (config.embed_dim, config.num_layers, config.eos_id) == (30, 3, 100)
    assert all(isinstance(value, int) for value in (config.embed_dim, config.num_layers, config.eos_id))


ODD_VALUES: tuple[Any, ...] = (
    *(30.5, "30", "thirty", True, None, [30], {"size": 30}, [], 0, -1, -30),
    *(float("nan"), float("inf"), 1e308, 10**30, 10**399, HUGE, HUGE + 1),
)


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("key", ["n_embd", "n_head", "vocab_size", "n_positions"])
def test_sizes_that_are_none_are_refused(key, value, with_config, flaxmill):
    err = refusal(with_config("gpt2", {key: value}), flaxmill)
    # A size that is possible is compared with the shapes in the files.
    assert key in err or "instead of" in err or "model.num_heads" in err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("layer_norm_epsilon", value) for value in ("1e-5", 0, -1e-5, True, None, [1e-5], float("nan"))),
        *(("initializer_range", value) for value in ("0.02", 0, -0.02, float("inf"), 10**399)),
        *(("resid_pdrop", value) for value in ("0.1", 1, -0.1, 1.5, float("nan"), None)),
        *(("activation_function", value) for value in ("gelu_old", 3, None, ["gelu"], {})),
        *(("tie_word_embeddings", value) for value in ("true", 1, 0.0, None, [])),
        *(("eos_token_id", value) for value in ("100", 100.5, True, {"id": 1}, ["100"], [[1]], 10**30)),
        *(("model_type", value) for value in (3, None, "gpt-2", ["gpt2"])),
        *(("architectures", value) for value in (3, "GPT2", [3], {}, [["GPT2LMHeadModel"]])),
        *(("n_inner", value) for value in ("44", 0, 44.5, [44])),
    ],
    ids=lambda value: str(value)[:20],
)
def test_values_of_another_kind_are_refused(key, value, with_config, flaxmill):
    err = refusal(with_config("gpt2", {key: value}), flaxmill)
    ours = {"layer_norm_epsilon": "norm_epsilon", "initializer_range": "initializer_std"}
    assert key in err or ours.get(key, "dropout") in err


@pytest.mark.parametrize("value", [0, -1, "1e4", None, True, float("nan"), float("inf"), [1e4], 10**399])
@pytest.mark.parametrize("key", ["rope_theta", "factor"])
def test_rotary_values_of_another_kind_are_refused(key, value, with_config, flaxmill):
    rope = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0, key: value}
    err = refusal(with_config("llama_linear_rope", {"rope_parameters": rope}), flaxmill)
    assert key in err


DEEP = 200_000
TEXTS = {
    "nothing": ("", "is not JSON"),
    "a list": ("[1, 2]", "holds a JSON list, not an object"),
    "a number": ("3", "holds a JSON int, not an object"),
    "null": ("null", "holds a JSON NoneType, not an object"),
    "torn": ('{"model_type": "gp', "is not JSON"),
    "more after the end": ('{"model_type": "gpt2"} {}', "is not JSON (Extra data"),
    "deep lists": ('{"model_type": "gpt2", "x": ' + "[" * DEEP + "]" * DEEP + "}", "nests too deeply"),
    "deep objects": ('{"x":' * DEEP + "1" + "}" * DEEP, "nests too deeply"),
    "many digits": ('{"model_type": "gpt2", "n_embd": ' + "9" * 5000 + "}", "has a number of 5000 digits"),
    "many digits after the point": (
        '{"model_type": "gpt2", "n_embd": 1.' + "9" * 5000 + "}",
        "architectures",
    ),
    "a key twice": ('{"model_type": "gpt2", "n_embd": 30, "n_embd": 31}', "has the key 'n_embd' twice"),
    "a key twice below": ('{"model_type": "gpt2", "a": {"b": 1, "b": 2}}', "has the key 'b' twice"),
    "Latin-1": (b'{"model_type": "caf\xe9"}', "is not JSON ('utf-8' codec can't decode"),
    "UTF-16": ('{"model_type": "gpt2"}'.encode("utf-16"), "is not JSON"),
    "a mark in front": (b"\xef\xbb\xbf{}", "is not JSON (Unexpected UTF-8 BOM"),
    "zeros": (b"\0" * 1000, "is not JSON"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_is_no_config_is_refused(name, with_config, flaxmill):
    text, said = TEXTS[name]
    assert said in refusal(with_config("gpt2", text), flaxmill)


def test_a_value_that_nests_deeply_is_not_written_out(models, with_config, flaxmill):
    text = json.dumps(json.loads((models("gpt2") / "config.json").read_text()) | {"n_embd": "HERE"})
    err = refusal(with_config("gpt2", text.replace('"HERE"', "[" * 400 + "]" * 400)), flaxmill)
    assert "n_embd=[[[[[[[...]]]]]]] must be a whole number" in err


def test_a_file_that_is_far_too_large_is_not_read(with_config, flaxmill):
    directory = with_config("gpt2", "{}")
    with (directory / "config.json").open("r+b") as file:
        file.truncate(3_000_000_000)  # a file of holes: nothing is written
    assert "has 3000000000 bytes, more than any model's" in refusal(directory, flaxmill)


def test_small_models_have_all_families():
    assert set(FAMILIES) <= set(SMALL)


def test_heads_that_do_not_divide_the_width_of_an_encoder_are_refused(with_config, flaxmill):
    err = refusal(with_config("marian", {"encoder_attention_heads": 7}), flaxmill)
    assert "does not divide over model.encoder_num_heads=7; use a multiple or set model.head_dim" in err


def test_a_whole_number_that_jax_has_no_type_for_is_read_as_a_number(with_config):
    config = read_huggingface_config(with_config("gpt2", {"initializer_range": 2**63}))
    assert (config.initializer_std, type(config.initializer_std)) == (2.0**63, float)
