"""A run that starts from another model has its shape and tokenizer; what computes otherwise is refused."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from small_tasks import task_data, task_experiment

from flaxmill.data.preparation.cache import prepare
from flaxmill.model.adapters import merge_lora
from flaxmill.model.config import ModelConfig
from flaxmill.model.huggingface.directory import load_huggingface, save_huggingface
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.caches import cache_directory
from flaxmill.train.loop import train
from flaxmill.train.run.directory import read_config
from flaxmill.train.run.restoring import load_params
from flaxmill.train.run.source import adopt_source, check_body, is_huggingface

OPEN = ModelConfig()  # a task's config says nothing about the body


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """(directory, data, tokenizer of 300 ids or less) of a small classification."""
    directory = tmp_path_factory.mktemp("task")
    data = task_data("classification", directory, tokenizer="bpe")
    dataset = prepare(data, "classification", cache=cache_directory(), log=lambda line: None)
    return directory, data, dataset.tokenizer


@pytest.fixture(scope="module")
def gpt_neo(task):
    """A directory of a small GPT-Neo with the task's tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    directory, _, tokenizer = task
    config = transformers.GPTNeoConfig(
        vocab_size=300, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, window_size=8,
        attention_types=[[["global", "local"], 1]], max_position_embeddings=40,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    transformers.GPTNeoForCausalLM(config).save_pretrained(directory / "neo")
    tokenizer.save(directory / "neo" / "tokenizer.json")
    return directory / "neo"


@pytest.fixture
def begin(task, tmp_path):
    """An experiment of the task that starts from `source`."""

    def make(source, **changes):
        _, data, _ = task
        changes = {"steps": 2, "model_is": OPEN, "run_dir": str(tmp_path / "run")} | changes
        model = changes.pop("model_is")
        experiment = task_experiment("classification", data, tmp_path / "run")
        return dataclasses.replace(experiment, init_from=str(source), model=model, **changes)

    return make


def test_a_model_that_is_nowhere_set_is_that_of_the_source(begin, gpt_neo):
    adopted = adopt_source(begin(gpt_neo, model_is=ModelConfig(dropout=0.2, remat="full")))
    model = adopted.model
    assert (model.family, model.embed_dim, model.layer_pattern) == ("gpt_neo", 32, ("global", "local"))
    assert (model.causal, model.pooled_place) == (True, "last")
    assert (model.dropout, model.remat) == (0.2, "full")
    assert adopted.data.tokenizer == str(gpt_neo / "tokenizer.json")


def test_a_source_without_a_tokenizer_is_refused_unless_one_is_named(begin, gpt_neo, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(gpt_neo, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    experiment = begin(bare)
    with pytest.raises(ValueError, match=r"^init_from=.*bare has no tokenizer.json or vocab.txt"):
        adopt_source(experiment)
    for tokenizer in (str(gpt_neo / "tokenizer.json"), "bytes"):
        named = dataclasses.replace(experiment.data, tokenizer=tokenizer)
        assert adopt_source(dataclasses.replace(experiment, data=named)).data.tokenizer == tokenizer


def test_a_body_that_is_set_and_a_tokenizer_that_is_named_stay(begin, gpt_neo):
    experiment = begin(gpt_neo, model_is=ModelConfig(embed_dim=64))
    experiment = dataclasses.replace(
        experiment, data=dataclasses.replace(experiment.data, tokenizer="/somewhere/tokenizer.json")
    )
    adopted = adopt_source(experiment)
    assert adopted.model == experiment.model
    assert adopted.data.tokenizer == "/somewhere/tokenizer.json"


def test_runs_and_hugging_face_directories_are_told_apart(gpt_neo, tmp_path):
    assert is_huggingface(gpt_neo)
    assert not is_huggingface(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"objective": "causal"}))
    assert not is_huggingface(tmp_path)


def test_another_body_is_refused_with_what_differs_even_where_shapes_agree(gpt_neo):
    config, _ = load_huggingface(gpt_neo)
    check_body(config, config, gpt_neo)
    with pytest.raises(ValueError, match=r"holds another model: model.activation gelu_tanh -> relu; leave"):
        check_body(dataclasses.replace(config, activation="relu"), config, gpt_neo)


@pytest.mark.slow
def test_a_family_without_the_head_or_another_than_is_asked_for_is_one_line(begin, gpt_neo, tmp_path):
    with pytest.raises(ValueError, match=r"init_from=.* holds another model: .*model.causal True -> False"):
        train(begin(gpt_neo, model_is=ModelConfig(num_layers=2, embed_dim=32)))
    with pytest.raises(ValueError, match=r"init_from=.* is neither a run nor a Hugging Face model"):
        train(begin(tmp_path))


@pytest.mark.slow
def test_fine_tuning_begins_with_the_body_of_the_source(begin, gpt_neo):
    experiment = begin(gpt_neo, steps=1)
    still = dataclasses.replace(experiment.optimizer, learning_rate=1e-12)
    result = train(dataclasses.replace(experiment, optimizer=still))
    resolved = read_config(result.directory)
    params, _, _ = load_params(result.directory, resolved, make_mesh(MeshConfig(data=1)))
    _, base = load_huggingface(gpt_neo)
    for group in ("embed", "layers", "final_norm"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), params[group], base[group])
    assert params["classifier"]["kernel"].shape == (32, 3)


@pytest.mark.slow
def test_the_source_is_not_needed_to_continue(begin, gpt_neo, tmp_path, stop_after):
    source = tmp_path / "source"
    source.mkdir()
    for file in gpt_neo.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    experiment = begin(source, steps=3)
    assert train(experiment, stop=stop_after(1)).preempted
    for file in source.iterdir():
        file.unlink()
    assert train(experiment).step == 3


@pytest.mark.slow
def test_adapters_of_the_source_are_merged_before_new_ones_are_drawn(begin, gpt_neo, tmp_path):
    lora = ModelConfig(lora_rank=2, lora_targets=("query", "up"))
    first = train(begin(gpt_neo, model_is=lora, run_dir=str(tmp_path / "first"))).directory
    second = begin(first, model_is=lora, run_dir=str(tmp_path / "second"))
    still = dataclasses.replace(second.optimizer, learning_rate=1e-12)
    result = train(dataclasses.replace(second, optimizer=still))
    mesh = make_mesh(MeshConfig(data=1))
    merged = []
    for run in (first, result.directory):
        resolved = read_config(run)
        params, _, _ = load_params(run, resolved, mesh)
        merged.append(merge_lora(resolved.model, params)[1]["layers"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *merged)


@pytest.mark.slow
def test_names_of_the_labels_reach_the_export_and_come_back(begin, gpt_neo, tmp_path):
    from flaxmill.train.inference.run_evaluation import OtherData, evaluate_run
    from flaxmill.train.run.exporting import export_run

    run = train(begin(gpt_neo)).directory
    export_run(run, tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["id2label"] == {"0": "animal", "1": "other", "2": "weather"}
    valid = read_config(run).data.valid_files[0]
    ours = evaluate_run(run, OtherData(valid, {}), output=tmp_path / "a")
    theirs = evaluate_run(tmp_path / "out", OtherData(valid, {}), output=tmp_path / "b")
    assert theirs["eval_loss"] == pytest.approx(ours["eval_loss"], rel=1e-6)


def test_a_padding_id_is_written_where_the_last_token_of_a_row_must_be_found(tmp_path):
    from flaxmill.model.functional import init_params

    config = ModelConfig(
        vocab_size=100,
        max_positions=16,
        causal=True,
        head="classification",
        num_labels=3,
        eos_id=5,
        num_layers=1,
    )
    save_huggingface(tmp_path, config, init_params(config, jax.random.key(0)))
    assert json.loads((tmp_path / "config.json").read_text())["pad_token_id"] == 5
