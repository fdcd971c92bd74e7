"""Every key of config.json is read as transformers reads it, refused by name, or shown to mean nothing."""

import dataclasses
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from moved_settings import FAMILIES_MOVED, UNMOVED, settings_with

from flaxmill.model.families.table import FAMILIES
from flaxmill.model.huggingface.config_reading import warn_of_unknown_keys

every_family = pytest.mark.parametrize("family", FAMILIES)
READ = [(family, key) for family in FAMILIES for key in FAMILIES[family].settings.read if key not in UNMOVED]
ONLY = [(family, key) for family in FAMILIES for key in FAMILIES[family].settings.only]

# For each key of a transformers class that is said to mean nothing, a value other than its default.
# return_dict is left out, since transformers' own heads fail without it.
MEANINGLESS: dict[str, Any] = {
    "chunk_size_feed_forward": 2,
    "classifier_dropout": 0.5,
    "cls_token_id": 7,
    "deterministic_flash_attn": True,
    "dtype": "bfloat16",
    "embd_pdrop": 0.5,
    "embed_dropout": 0.5,
    "embedding_dropout": 0.5,
    "forced_eos_token_id": 7,
    "initializer_cutoff_factor": 1.0,
    "initializer_factor": 2.0,
    "is_decoder": True,
    "output_attentions": True,
    "output_hidden_states": True,
    "pretraining_tp": 2,
    "sep_token_id": 7,
    "sparse_pred_ignore_index": 5,
    "sparse_prediction": True,
    "summary_activation": "tanh",
    "summary_first_dropout": 0.5,
    "summary_proj_to_labels": False,
    "summary_type": "mean",
    "summary_use_proj": False,
    "transformers_version": "4.0.0",
    "use_cache": False,
}


def transformers_config(family: str, **settings: Any) -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    return transformers.AutoConfig.for_model(family, **settings)


def in_a_file(config: Any) -> dict[str, Any]:
    return json.loads(config.to_json_string(use_diff=False))


def transformers_keys(family: str) -> set[str]:
    """The fields of the class, and the other keys that it writes into a file."""
    config = transformers_config(family)
    fields = {field.name for field in dataclasses.fields(config)}
    return {key for key in fields | set(config.to_dict()) if not key.startswith("_")}


def unused_keys(family: str) -> list[str]:
    return [key for keys in FAMILIES[family].settings.unused.values() for key in keys]


def read(family: str, settings: dict[str, Any], head: str = "none") -> Any:
    return FAMILIES[family].read_config(settings, head, frozenset())  # type: ignore[arg-type]


def head_for(family: str, key: str) -> str:
    heads = FAMILIES[family].architectures
    if key in ("output_router_logits", "router_aux_loss_coef"):
        return "lm"  # transformers' other heads have no loss of experts
    return "classification" if key in ("problem_type", "classifier_pooling") else list(heads)[-1]


@every_family
def test_every_key_of_transformers_is_in_one_class(family):
    settings = FAMILIES[family].settings
    listed = [*settings.read, *settings.only, *unused_keys(family), *settings.aliases]
    assert sorted(listed) == sorted(set(listed)), "a key is in two classes"
    assert transformers_keys(family) <= set(listed)


@every_family
def test_keys_with_other_values_than_transformers_defaults_are_all_moved(family):
    settings = FAMILIES[family].settings
    assert set(FAMILIES_MOVED[family].moved) <= set(settings.read)
    lacking = set(settings.read) - set(FAMILIES_MOVED[family].moved) - set(UNMOVED)
    # T5 and Marian have no classification head.
    assert lacking <= ({"num_labels", "problem_type", "id2label"} if family in ("t5", "marian") else set())


@every_family
def test_a_key_left_out_has_transformers_default(family):
    config = transformers_config(family)
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for key, setting in FAMILIES[family].settings.read.items():
        assert key not in defaults or defaults[key] == setting.default, key
    head = head_for(family, "")
    assert read(family, {}, head) == read(family, in_a_file(config), head)


@pytest.mark.parametrize(
    ("family", "key"), [pair for pair in READ if pair[1] in FAMILIES_MOVED[pair[0]].moved]
)
def test_a_key_that_is_read_changes_the_model_as_it_does_in_transformers(family, key):
    chosen, head = FAMILIES_MOVED[family], head_for(family, key)
    settings = settings_with(chosen, key)
    moved = read(family, settings, head)
    # Other new values may be needed for this key to count; for the two keys below, the others need the key.
    base = chosen.settings if key in ("hidden_activation", "num_layers") else settings
    without = {name: value for name, value in base.items() if name != key} | (
        {key: chosen.settings[key]} if key in chosen.settings else {}
    )
    assert moved != read(family, without, head)
    assert moved == read(family, in_a_file(transformers_config(family, **settings)), head)


@pytest.mark.parametrize(("family", "key"), ONLY)
def test_a_key_that_would_compute_something_else_is_refused_by_name(family, key):
    settings = FAMILIES_MOVED[family].settings
    supported = FAMILIES[family].settings.only[key]
    assert read(family, settings | {key: supported}, head_for(family, key))
    other = {"bits": 4} if supported is None else "relative" if isinstance(supported, str) else not supported
    with pytest.raises(ValueError, match=rf"config\.json: {key}=") as error:
        read(family, settings | {key: other}, head_for(family, key))
    assert "\n" not in str(error.value)


@every_family
def test_keys_that_mean_nothing_change_no_output_of_transformers(family, torch_reference):
    import torch

    _, model = torch_reference(FAMILIES_MOVED[family].small)
    tokens = torch.arange(3, 27).reshape(2, 12)
    inputs = {"input_ids": tokens, "attention_mask": (torch.arange(12) < torch.tensor([[12], [9]])).long()}
    inputs |= {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    keys = [key for key in unused_keys(family) if key in transformers_keys(family) and key != "return_dict"]
    for key in keys:
        values = model.config.to_dict() | {key: MEANINGLESS[key]}
        config = type(model.config)(**values)
        config._attn_implementation = config._experts_implementation = "eager"
        changed = type(model)(config).eval()
        changed.load_state_dict(model.state_dict())
        with torch.no_grad():
            before, after = model(**inputs)[0], changed(**inputs)[0]
        # Chunks may round sums differently; all other keys leave the same program.
        atol = 1e-6 if key == "chunk_size_feed_forward" else 0
        torch.testing.assert_close(after, before, atol=atol, rtol=0, msg=key)


@pytest.mark.slow
@every_family
def test_a_model_with_every_key_moved_computes_what_torchs_does(family, torch_reference, output_differences):
    chosen = FAMILIES_MOVED[family]
    # Where two keys mean the same, transformers 5 writes the newer one.
    older = {"rope_scaling", "rope_theta", "rotary_pct", "rotary_emb_base", "global_attn_every_n_layers"}
    older |= {"id2label", "num_layers"} if family == "gpt_neo" else {"id2label"}
    settings = settings_with(chosen, *(key for key in chosen.moved if key not in older))
    if family == "roberta":
        settings["pad_token_id"] = 1  # torch finds positions by the padding in the rows of parity
    reference = torch_reference(chosen.small, chosen.architecture, **settings)
    differences = output_differences(reference)
    # float32 holds 7 digits; another order of sums costs one or two of them. T5's unscaled logits reach 50.
    assert max(differences.values()) < (1e-4 if family == "t5" else 2e-5), differences


@every_family
def test_what_transformers_writes_has_no_unknown_key(family, caplog):
    import transformers

    settings = in_a_file(transformers_config(family, **FAMILIES_MOVED[family].settings))
    with caplog.at_level(logging.WARNING, "flaxmill.weights"):
        warn_of_unknown_keys(FAMILIES[family], settings | {"transformers_version": transformers.__version__})
    assert caplog.text == ""


def test_unknown_keys_are_named_once_with_what_they_may_mean(caplog):
    settings = {"hidden_sise": 32, "mixture_of_experts": 8, "_name_or_path": "x"}
    with caplog.at_level(logging.WARNING, "flaxmill.weights"):
        for _ in range(2):
            warn_of_unknown_keys(FAMILIES["bert"], settings)
    (record,) = caplog.records
    said = record.getMessage()
    assert said.endswith(
        "a bert has no settings of these names: hidden_sise (did you mean hidden_size?), mixture_of_experts"
    )


def test_unknown_keys_among_the_rotary_values_are_named(caplog):
    settings = {"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 3, "mrope_section": [1]}}
    with caplog.at_level(logging.WARNING, "flaxmill.weights"):
        warn_of_unknown_keys(FAMILIES["llama"], settings)
    assert "rope_scaling.beta_fast, rope_scaling.mrope_section" in caplog.text


def test_the_page_has_the_tables_of_the_families():
    path = Path(__file__).parents[3] / "docs" / "make_settings.py"
    spec = importlib.util.spec_from_file_location("make_settings", path)
    assert spec is not None
    assert spec.loader is not None
    make_settings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_settings)
    page = make_settings.PAGE.read_text(encoding="utf-8")
    assert make_settings.make_tables() in page, "run `python docs/make_settings.py`"


@pytest.mark.parametrize(
    ("family", "alias", "key"),
    [(family, *pair) for family in FAMILIES for pair in FAMILIES[family].settings.aliases.items()],
)
def test_another_name_of_a_key_is_read_as_the_key(family, alias, key):
    settings = FAMILIES_MOVED[family].settings
    moved = settings | {key: settings[key] * 2}
    if key == "num_layers" and family == "gpt_neo":
        moved |= {"attention_types": [[["global", "local"], 3]]}
    renamed = {name: value for name, value in moved.items() if name != key} | {alias: moved[key]}
    head = head_for(family, key)
    assert read(family, renamed, head) == read(family, moved, head)
    assert read(family, renamed, head) == read(
        family, in_a_file(transformers_config(family, **renamed)), head
    )
    with pytest.raises(ValueError, match=f"{alias}=.* and {key}=.* name the same setting; keep one"):
        read(family, moved | {alias: settings[key]}, head)
