"""A run on conversations resumes bit for bit, on any mesh; no turn is seen from another conversation."""

import dataclasses
import json
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from chats import write_jsonl
from small_runs import assert_resumes, assert_same_on_a_mesh, in_directory

from flaxmill.data.batches import Batches
from flaxmill.data.config import DataConfig
from flaxmill.data.conversations.chatml import CHATML
from flaxmill.data.conversations.rendering import make_question_reader
from flaxmill.data.mixture.mixed_dataset import MixedDataset
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.tokenizer.settings import TEMPLATE_FILE
from flaxmill.model import ModelConfig, apply
from flaxmill.train.checkpoint.config import CheckpointConfig
from flaxmill.train.inference.text_model import load_text_model
from flaxmill.train.input_pipeline import prepare_data
from flaxmill.train.loop import train
from flaxmill.train.run.exporting import _kept_tokenizer, export_run
from flaxmill.train.run.importing import HUGGINGFACE

pytestmark = pytest.mark.slow

WORDS = ["red", "green", "blue", "small", "large"]


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """Short conversations in which the assistant repeats a word."""
    conversations = [
        [
            {"role": "user", "content": f"Say {WORDS[n % 5]}."},
            {"role": "assistant", "content": WORDS[n % 5]},
            {"role": "user", "content": f"And {WORDS[n // 5 % 5]}?"},
            {"role": "assistant", "content": WORDS[n // 5 % 5]},
        ]
        for n in range(100)
    ]
    return write_jsonl(tmp_path_factory.mktemp("chats") / "chats.jsonl", *conversations)


@pytest.fixture
def experiment(chats, make_experiment):
    data = DataConfig(files=(str(chats),), vocab_size=300, sequence_length=128, packing="best_fit")
    return make_experiment("conversation", data=data, prompt="Say red.", checkpoint=CheckpointConfig(every=4))


def test_a_run_that_stops_on_the_way_ends_as_one_that_does_not(experiment, tmp_path, stop_after):
    straight = assert_resumes(experiment, tmp_path, stop_after)
    assert straight.metrics.keys() >= {"eval_loss", "eval_conversation_accuracy"}


def test_losses_are_those_of_one_device_on_any_mesh(experiment, tmp_path):
    assert_same_on_a_mesh(experiment, tmp_path)


def test_no_token_is_seen_from_another_conversation(experiment, tmp_path):
    result = train(in_directory(experiment, tmp_path / "run", steps=1))
    model = load_text_model(result.directory)
    dataset = prepare(experiment.data, "conversation", cache=tmp_path, log=lambda line: None)
    batches = Batches(
        dataset, "train", config=experiment.data, objective="conversation", batch_size=2, seed=0
    )
    batch = batches.batch(0)
    assert batch["documents"].max() > 1
    inputs: dict[str, Any] = {name: batch[name] for name in ("tokens", "mask", "positions", "documents")}
    is_first = inputs["documents"] == 1
    others: dict[str, Any] = inputs | {
        "tokens": np.where(is_first, (inputs["tokens"] + 7) % 256, inputs["tokens"])
    }
    with jax.set_mesh(model.mesh):
        one, two = (np.asarray(apply(model.config, model.params, b)["logits"]) for b in (inputs, others))
    rest = (inputs["mask"] > 0) & ~is_first
    np.testing.assert_array_equal(one[rest], two[rest])
    assert (one[is_first] != two[is_first]).any()


def test_a_run_answers_a_prompt_as_a_user_turn_and_ends_its_own(experiment, tmp_path, flaxmill):
    """What it learned is in its text, its exported model and its exported chat template."""
    experiment = dataclasses.replace(
        experiment,
        steps=150,
        model=dataclasses.replace(experiment.model, dropout=0.0, embed_dim=64),
        optimizer=dataclasses.replace(experiment.optimizer, learning_rate=1e-2),
    )
    result = train(in_directory(experiment, tmp_path / "run"))
    model = load_text_model(result.directory)
    assert not model.continues
    assert model.read("Say red.") == make_question_reader(model.tokenizer)("Say red.")
    code, out, _ = flaxmill("generate", result.directory, "Say blue.", "--json")
    assert code in (0, None)
    written = json.loads(out)
    assert written["text"] == ["blue"]
    end = model.tokenizer.inner.token_to_id("<|im_end|>")
    assert written["tokens"][0][-1] == end
    export_run(result.directory, tmp_path / "hf")
    from transformers import AutoTokenizer

    assert end in np.atleast_1d(json.loads((tmp_path / "hf" / "config.json").read_text())["eos_token_id"])
    their = AutoTokenizer.from_pretrained(tmp_path / "hf")
    question = [{"role": "user", "content": "Say red."}]
    ids = their.apply_chat_template(question, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == model.read("Say red.")


def test_conversations_are_mixed_like_other_sources(experiment, chats, tmp_path):
    other = write_jsonl(tmp_path / "other.jsonl", *map(json.loads, _messages(chats)))
    data = dataclasses.replace(experiment.data, files=(), sources=(f"a=0.75:{chats}", f"b=0.25:{other}"))
    experiment = dataclasses.replace(experiment, data=data)
    mixed = prepare_data(experiment, tmp_path, lambda line: None)
    assert isinstance(mixed, MixedDataset)
    assert train(in_directory(experiment, tmp_path / "run", steps=2)).step == 2


def _messages(path):
    return [json.dumps(json.loads(line)["messages"][:2]) for line in path.read_text().splitlines()]


def test_an_imported_tokenizer_is_exported_with_the_form_that_was_used(experiment, tmp_path):
    import small_llama
    import tokenizers

    source = shutil.copytree(small_llama.directory(), tmp_path / "source")
    inner = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    inner.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    inner.save(str(source / "tokenizer.json"))
    model = dataclasses.replace(ModelConfig(), vocab_size=inner.get_vocab_size())
    data = dataclasses.replace(experiment.data, tokenizer=str(source))
    experiment = dataclasses.replace(experiment, model=model, data=data, steps=1)
    result = train(in_directory(experiment, tmp_path / "run"))
    shutil.copytree(source, result.directory / HUGGINGFACE)  # as if it had been imported
    assert _kept_tokenizer(result.directory, load_text_model(result.directory).tokenizer, "template") == ()
    (result.directory / HUGGINGFACE / TEMPLATE_FILE).write_text(CHATML)
    assert _kept_tokenizer(result.directory, load_text_model(result.directory).tokenizer, "template")
