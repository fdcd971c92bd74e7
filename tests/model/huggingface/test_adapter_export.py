"""Adapters exported for PEFT give the same outputs on transformers' base model as here."""

import copy
import dataclasses
import json
import warnings
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from flaxmill.model.adapters import merge_lora, with_fresh_adapters
from flaxmill.model.huggingface.adapter_export import save_adapter
from flaxmill.model.huggingface.directory import load_huggingface, save_huggingface
from flaxmill.model.layers.lora import head_beside_adapters, is_adapter
from flaxmill.model.params import names_of
from flaxmill.train.parity.batches import make_parity_batch, variants
from flaxmill.train.parity.flaxmill_side import Flaxmill
from flaxmill.train.parity.torch_side import measure_reference

pytestmark = pytest.mark.slow

ALL = ("query", "key", "value", "out", "up", "down")
GATED = (*ALL, "gate")
RANK, ALPHA = 3, 6.0


def with_adapters(reference, targets=ALL, rank=RANK):
    """Config and params of a reference with adapters, and a head, that change its outputs visibly."""
    config, params = load_huggingface(reference[0])
    lora = dataclasses.replace(config, lora_rank=rank, lora_alpha=ALPHA, lora_targets=targets)
    params = with_fresh_adapters(lora, params, jax.random.key(0))
    random = np.random.default_rng(1)

    def change(path: tuple, leaf: jax.Array) -> jax.Array:
        names = names_of(path)
        trained = is_adapter(names) or names[0] in head_beside_adapters(params)
        return leaf + 0.1 * random.standard_normal(leaf.shape, np.float32) if trained else leaf

    return lora, jax.tree_util.tree_map_with_path(change, params)


def peft_outputs(reference, directory, batch):
    """Outputs of a reference's torch model with the adapters in a directory."""
    with warnings.catch_warnings():  # PEFT's and torch's deprecations are not ours
        warnings.simplefilter("ignore")
        import peft

        model = copy.deepcopy(reference[1])
        wrapped = peft.PeftModel.from_pretrained(model, str(directory))
    trained = {name for name, _ in wrapped.named_parameters() if "lora_" in name or "modules_to_save" in name}
    assert len(trained) == len(load_file(directory / "adapter_model.safetensors"))
    return measure_reference(model.eval(), batch, gradients=False).outputs


def assert_same_outputs(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # float32 sums in another order: 1e-5 of the largest output.
        atol = 1e-5 * max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(found[name], value, rtol=0, atol=atol, err_msg=name)


MODELS = [
    ("gpt2", ALL),
    ("gpt2", ("query", "value")),
    ("gpt2_classification", ("key", "down")),
    ("bert", ALL),
    ("bert_classification", ALL),
    ("llama", GATED),
    ("t5", ALL),
    ("bert_qa", ALL),
    ("bert_tokens", ALL),
    ("bert_encoder", ALL),
    ("roberta_classification", ALL),
    ("modernbert", GATED),
    ("modernbert_classification", ("query", "value", "gate")),
    ("gpt_neo_classification", ALL),
    ("gpt_neox", ALL),
    ("gpt_neox_classification", ("key", "out")),
    ("llama_classification", ("query", "value")),
    ("mistral", GATED),
    ("qwen2", GATED),
    ("qwen3", GATED),
    ("t5_v1_1", GATED),
    ("marian", ALL),
]


@pytest.mark.parametrize(("name", "targets"), MODELS)
def test_peft_gives_the_same_outputs(torch_reference, tmp_path, name, targets):
    reference = torch_reference(name)
    config, params = with_adapters(reference, targets)
    save_adapter(tmp_path, config, params, base=None)
    batch = make_parity_batch(config, variants(config)[0], seed=0)
    ours = Flaxmill(config, params).outputs(batch)
    assert_same_outputs(peft_outputs(reference, tmp_path, batch), ours)
    before = measure_reference(reference[1], batch, gradients=False).outputs
    assert max(np.abs(before[output] - ours[output]).max() for output in ours) > 0.1


def test_a_fused_projection_has_one_adapter_whose_rank_is_the_sum(torch_reference, tmp_path):
    config, params = with_adapters(torch_reference("gpt2"), ("query", "value", "out"))
    save_adapter(tmp_path, config, params, base="somewhere")
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (RANK, ALPHA)
    fused = r"transformer\.h\.\d+\.attn\.c_attn"
    assert settings["rank_pattern"] == {fused: 2 * RANK}
    assert settings["alpha_pattern"] == {fused: 2 * ALPHA}
    assert settings["fan_in_fan_out"]
    assert (settings["task_type"], settings["modules_to_save"]) == ("CAUSAL_LM", None)
    assert settings["base_model_name_or_path"] == "somewhere"
    weights = load_file(tmp_path / "adapter_model.safetensors")
    b_OR = weights["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"]
    assert b_OR.shape == (3 * 30, 2 * RANK)
    assert not b_OR[30:60].any()  # the key has no adapter
    assert not b_OR[:30, RANK:].any()
    assert not b_OR[60:, :RANK].any()


def test_merged_weights_are_a_model_of_the_family(torch_reference, tmp_path):
    reference = torch_reference("gpt2")
    config, params = with_adapters(reference)
    with pytest.raises(ValueError, match=r"model.lora_rank=3: .* merge them first"):
        save_huggingface(tmp_path, config, params)
    base, merged = merge_lora(config, params)
    save_huggingface(tmp_path, base, merged)
    model = type(reference[1]).from_pretrained(tmp_path, attn_implementation="eager").eval()
    batch = make_parity_batch(config, variants(config)[0], seed=0)
    ours = Flaxmill(config, params).outputs(batch)
    assert_same_outputs(measure_reference(model, batch, gradients=False).outputs, ours)


def test_an_export_replaces_the_other_kind_in_its_directory(torch_reference, tmp_path):
    """transformers would load adapters that lie beside a model without being asked."""
    config, params = with_adapters(torch_reference("gpt2"))
    save_huggingface(tmp_path, *merge_lora(config, params))
    save_adapter(tmp_path, config, params, base=None)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    save_huggingface(tmp_path, *merge_lora(config, params))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("adapter")]


def test_a_run_exports_its_merged_weights_or_its_adapters(make_experiment, flaxmill, tmp_path):
    from flaxmill.train import train

    model = dict(lora_rank=2, lora_targets=("query", "up"), norm_position="pre", dropout=0.0)
    train(make_experiment(model=model, run_dir=str(tmp_path / "run")))
    code, out, _ = flaxmill("export", tmp_path / "run", tmp_path / "merged")
    assert code in (0, None)
    assert "GPT2LMHeadModel of step 8" in out
    code, out, _ = flaxmill("export", tmp_path / "run", tmp_path / "adapter", "--adapter")
    assert code in (0, None)
    assert "adapters of step 8" in out
    assert "peft.PeftModel.from_pretrained" in out
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
    assert len(names) == 2 * 2 * 2  # layers, projections, factors
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] is None
    train(make_experiment(run_dir=str(tmp_path / "whole")))
    code, _, err = flaxmill("export", tmp_path / "whole", tmp_path / "none", "--adapter")
    assert code == 2
    assert err.count("\n") == 1
    assert "has no adapters: its model.lora_rank is None" in err
