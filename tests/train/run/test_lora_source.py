"""A pretrained model gets adapters, trains them alone, and both go on: merged, or beside the base in PEFT."""

import json
import warnings

import jax
import numpy as np
import pytest

from flaxmill.model.adapters import merge_lora
from flaxmill.model.layers.lora import is_adapter
from flaxmill.model.params import flatten
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train import train
from flaxmill.train.optimizer.optimizers import OptimizerConfig
from flaxmill.train.run.directory import read_config
from flaxmill.train.run.exporting import export_adapter, export_run
from flaxmill.train.run.restoring import load_params

pytestmark = pytest.mark.slow

LORA = dict(lora_rank=2, lora_targets=("query", "key", "down"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The directory of a run of three steps, made once."""
    made = {}

    def make(make_experiment):
        if not made:
            directory = tmp_path_factory.mktemp("source") / "run"
            made["run"] = train(make_experiment(steps=3, run_dir=str(directory))).directory
        return made["run"]

    return make


@pytest.fixture
def begin(make_experiment, source, tmp_path):
    """Trains two steps from the source, or from another directory."""

    def begin(name, init_from=None, **model):
        experiment = make_experiment(
            steps=2,
            init_from=str(init_from or source(make_experiment)),
            run_dir=str(tmp_path / name),
            model=model,
            optimizer=OptimizerConfig(learning_rate=0.03),
        )
        return train(experiment).directory

    return begin


def params_of(run, step=None):
    experiment = read_config(run)
    return experiment.model, load_params(run, experiment, make_mesh(MeshConfig(data=1)), step)[0]


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_run_gets_adapters_which_a_later_run_takes_merged(begin, source, make_experiment):
    adapted = begin("adapted", **LORA)
    _, base = params_of(source(make_experiment))
    config, params = params_of(adapted)
    flat = flatten(params)
    assert config.lora_rank == 2
    assert_same({path: leaf for path, leaf in flat.items() if not is_adapter(path)}, flatten(base))
    assert all(leaf.any() for path, leaf in flat.items() if is_adapter(path))
    begun = params_of(adapted, step=0)[1]
    assert not any(leaf.any() for path, leaf in flatten(begun).items() if path[-1] == "lora_b")

    whole = begin("whole", init_from=adapted)
    assert_same(params_of(whole, step=0)[1], merge_lora(config, params)[1])
    again = begin("again", init_from=adapted, **LORA)
    begun = flatten(params_of(again, step=0)[1])
    assert_same(
        {path: leaf for path, leaf in begun.items() if not is_adapter(path)},
        flatten(merge_lora(config, params)[1]),
    )


def test_a_hugging_face_model_gets_adapters_which_peft_puts_beside_it(
    begin, source, make_experiment, tmp_path
):
    import torch
    import transformers

    base = tmp_path / "base"
    export_run(source(make_experiment), base)
    run = begin("adapted", init_from=base, **LORA)
    merged, adapter = tmp_path / "merged", tmp_path / "adapter"
    export_run(run, merged)
    exported = export_adapter(run, adapter)
    assert (exported.step, exported.architecture) == (2, "GPT2LMHeadModel")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base)
    with warnings.catch_warnings():  # PEFT's and torch's deprecations are not ours
        warnings.simplefilter("ignore")
        import peft

        beside = peft.AutoPeftModelForCausalLM.from_pretrained(adapter).eval()
    whole = transformers.AutoModelForCausalLM.from_pretrained(merged).eval()
    plain = transformers.AutoModelForCausalLM.from_pretrained(base).eval()
    tokens = torch.arange(1, 25).reshape(2, 12)
    with torch.no_grad():
        found, expected, before = (model(tokens).logits.numpy() for model in (beside, whole, plain))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)  # logits are below 1
    assert np.abs(found - before).max() > 1e-3
