"""Batches of labelled examples hold what their objective says, whichever host reads them."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from small_tokenizers import directory_of
from task_files import LABELS, TASKS, has_encoder, objective_of, write_task

from flaxmill.data.batches import Batches
from flaxmill.data.examples.corpus import read_examples
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.prepared.dataset import Dataset
from flaxmill.data.text.held_out import Split

FIELDS = {
    "classification": {"labels", "weights"},
    "regression": {"labels", "weights"},
    "multi_label": {"labels", "weights"},
    "pairs": {"labels", "segments", "weights"},
    "tagging": {"targets", "weights"},
    "answers": {"starts", "ends", "segments", "weights"},
    "translation": {"decoder_tokens", "decoder_mask", "targets", "weights"},
    "prompts": {"targets", "weights"},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """{task: (config, dataset)}"""
    directory = tmp_path_factory.mktemp("tasks")
    found = {}
    for task in TASKS:
        config = write_task(directory, task)
        found[task] = (
            config,
            prepare(
                config,
                objective_of(task),
                cache=directory / "cache",
                log=lambda line: None,
                has_encoder=has_encoder(task),
            ),
        )
    return found


def open_batches(
    prepared, task, split: Split = "train", batch_size=8, seed=0, **arguments
) -> tuple[Batches, Dataset]:
    config, dataset = prepared[task]
    return Batches(
        dataset,
        split,
        config=config,
        objective=objective_of(task),
        batch_size=batch_size,
        seed=seed,
        **arguments,
    ), dataset


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_rows_of_all_hosts_are_the_batch_of_one(prepared, task, split):
    batches, _ = open_batches(prepared, task, split)
    for step in (0, batches.num_batches - 1, batches.num_batches, 1000):
        parts = [
            open_batches(prepared, task, split)[0].rows(step, start, start + 2) for start in (0, 2, 4, 6)
        ]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        assert_equal(joined, batches.batch(step))


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_has_the_fields_of_its_objective(prepared, task):
    batches, dataset = open_batches(prepared, task)
    batch = batches.batch(0)
    inputs = {"tokens", "mask", "positions", "documents", "example_numbers"}
    assert batch.keys() == inputs | FIELDS[task]
    for name, values in batch.items():
        is_float = name == "weights" or (name == "labels" and task in ("regression", "multi_label"))
        assert values.dtype == (np.float32 if is_float else np.int32), name
        assert values.shape[0] == 8
    lengths = batch["mask"].sum(1)
    places = np.arange(dataset.sequence_length)
    np.testing.assert_array_equal(batch["mask"], places < lengths[:, None])
    np.testing.assert_array_equal(batch["documents"], batch["mask"])
    np.testing.assert_array_equal(batch["positions"], places * batch["mask"])
    pad_id = dataset.tokenizer.pad_id or 0
    assert (batch["tokens"][batch["mask"] == 0] == pad_id).all()
    assert batches.max_predictions is None


@pytest.mark.parametrize("task", TASKS)
def test_an_epoch_reads_every_row_once_in_an_order_of_its_own(prepared, task):
    batches, dataset = open_batches(prepared, task, batch_size=1)
    num_rows = dataset.statistics["train"]["num_rows"]
    epochs = [
        [_row_key(batches.batch(step)) for step in range(e * num_rows, (e + 1) * num_rows)] for e in (0, 1)
    ]
    stored = dataset.read("train", np.arange(num_rows))["number"]
    for epoch in epochs:
        assert sorted(number for number, _ in epoch) == sorted(stored)
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


def _row_key(batch):
    return int(batch["example_numbers"][0]), batch["tokens"][0].tobytes()


@pytest.mark.parametrize("task", TASKS)
def test_held_out_rows_come_once_in_order_and_then_empty_ones(prepared, task):
    batches, dataset = open_batches(prepared, task, "valid")
    num_rows = dataset.statistics["valid"]["num_rows"]
    parts = [batches.batch(step) for step in range(batches.num_batches + 1)]
    numbers = np.concatenate([part["example_numbers"] for part in parts])
    assert (np.diff(numbers[:num_rows]) >= 0).all()
    assert (numbers[num_rows:] == -1).all()
    for name, values in parts[-1].items():
        if name not in ("example_numbers", "tokens"):
            assert not values.any(), name


def test_labels_are_those_of_the_examples(prepared):
    for task in ("classification", "pairs", "regression"):
        batches, dataset = open_batches(prepared, task)
        examples = list(read_examples(prepared[task][0], "classification", "train"))
        batch = batches.batch(3)
        for number, label in zip(batch["example_numbers"], batch["labels"], strict=True):
            wanted = examples[number].wanted
            assert label == (dataset.labels.index(wanted) if dataset.labels else np.float32(wanted))


@pytest.mark.parametrize("split", ["train", "valid"])
def test_of_many_labels_each_that_applies_is_one(prepared, split):
    batches, dataset = open_batches(prepared, "multi_label", split)
    examples = list(read_examples(prepared["multi_label"][0], "classification", split))
    assert [] in [example.wanted for example in examples]
    batch = batches.batch(0)
    assert batch["labels"].shape == (8, len(LABELS))
    for number, labels, weight in zip(
        *(batch[n] for n in ("example_numbers", "labels", "weights")), strict=True
    ):
        wanted = examples[number].wanted if number >= 0 else []
        assert [label for label, applies in zip(dataset.labels, labels, strict=True) if applies] == wanted
        assert weight == (number >= 0)


def test_of_many_labels_unknown_ones_weigh_nothing(prepared, tmp_path):
    config, dataset = prepared["multi_label"]
    config = dataclasses.replace(config, label_column=None, labels=dataset.labels)
    unknown = prepare(config, "classification", cache=tmp_path, log=lambda line: None)
    batch = Batches(unknown, "valid", config=config, objective="classification", batch_size=4, seed=0).batch(
        0
    )
    assert batch["labels"].shape == (4, 3)
    assert not batch["labels"].any()
    assert not batch["weights"].any()


def test_classes_weigh_what_the_config_says(prepared):
    config, dataset = prepared["classification"]
    config = dataclasses.replace(config, class_weights=(0.5, 2.0, 0.0))
    arguments: Any = dict(objective="classification", batch_size=16, seed=0)
    batch = Batches(dataset, "train", config=config, **arguments).batch(0)
    # Twice as much: the loss does not depend on the scale, and what counts is 1 or more.
    np.testing.assert_array_equal(batch["weights"], np.array([1.0, 4.0, 0.0])[batch["labels"]])
    config = dataclasses.replace(config, class_weights=(1.0, 2.0))
    with pytest.raises(
        ValueError, match=r"^data.class_weights=1.0, 2.0 must be one number of 0 or more for each"
    ):
        Batches(dataset, "train", config=config, **arguments)


def test_without_labels_nothing_weighs(prepared, tmp_path):
    config, dataset = prepared["classification"]
    config = dataclasses.replace(config, label_column=None, labels=dataset.labels)
    unknown = prepare(config, "classification", cache=tmp_path, log=lambda line: None)
    batches = Batches(unknown, "valid", config=config, objective="classification", batch_size=4, seed=0)
    batch = batches.batch(0)
    assert (batch["labels"] == -1).all()
    assert not batch["weights"].any()


def test_segments_of_a_pair_are_zero_and_then_one(prepared):
    batch = open_batches(prepared, "pairs")[0].batch(0)
    sep_id = prepared["pairs"][1].tokenizer.sep_id
    for tokens, segments, mask in zip(batch["tokens"], batch["segments"], batch["mask"], strict=True):
        ends = np.flatnonzero(tokens == sep_id)
        assert len(ends) == 2
        np.testing.assert_array_equal(segments, (np.arange(24) > ends[0]) & (mask > 0))


def test_answers_are_places_in_the_context(prepared):
    batches, dataset = open_batches(prepared, "answers", batch_size=64)
    batch = batches.batch(0)
    examples = list(read_examples(prepared["answers"][0], "question_answering", "train"))
    num_found = 0
    for row, number in enumerate(batch["example_numbers"]):
        start, end = batch["starts"][row], batch["ends"][row]
        if start:
            num_found += 1
            assert batch["segments"][row, start : end + 1].all()
            answer = dataset.tokenizer.decode(batch["tokens"][row, start : end + 1])
            assert answer == examples[number].wanted[0].text
    assert num_found > 10


def test_a_decoder_reads_the_target_one_place_later(prepared):
    batches, dataset = open_batches(prepared, "translation")
    examples = list(read_examples(prepared["translation"][0], "seq2seq", "train"))
    batch, tokenizer = batches.batch(0), dataset.tokenizer
    # Without a pad token the end token comes first.
    assert (batch["decoder_tokens"][:, 0] == tokenizer.end_id).all()
    lengths = batch["decoder_mask"].sum(1)
    np.testing.assert_array_equal(batch["weights"], batch["decoder_mask"])
    for row, number in enumerate(batch["example_numbers"]):
        target = batch["targets"][row, : lengths[row]]
        assert target[-1] == tokenizer.end_id
        assert tokenizer.decode(target) == examples[number].wanted
        np.testing.assert_array_equal(batch["decoder_tokens"][row, 1 : lengths[row]], target[:-1])
        source = batch["tokens"][row][batch["mask"][row] > 0]
        assert source[-1] == tokenizer.end_id
        assert tokenizer.decode(source) == examples[number].texts[0]


def test_a_model_may_say_what_its_decoder_reads_first(prepared):
    batches, _ = open_batches(prepared, "translation", decoder_start_id=5)
    assert (batches.batch(0)["decoder_tokens"][:, 0] == 5).all()


def test_t5_starts_from_its_pad_token(tmp_path):
    config = write_task(tmp_path, "translation")
    config = dataclasses.replace(config, tokenizer=str(directory_of("t5") / "tokenizer.json"))
    dataset = prepare(config, "seq2seq", cache=tmp_path, log=lambda line: None, has_encoder=True)
    batches = Batches(dataset, "train", config=config, objective="seq2seq", batch_size=4, seed=0)
    assert (batches.batch(0)["decoder_tokens"][:, 0] == dataset.tokenizer.pad_id).all()


def test_only_the_target_of_a_prompt_counts_and_its_end(prepared):
    batches, dataset = open_batches(prepared, "prompts")
    examples = list(read_examples(prepared["prompts"][0], "seq2seq", "train"))
    batch, tokenizer = batches.batch(0), dataset.tokenizer
    for row, number in enumerate(batch["example_numbers"]):
        places = np.flatnonzero(batch["weights"][row])
        first, last = places[0], places[-1]
        np.testing.assert_array_equal(places, np.arange(first, last + 1))
        assert tokenizer.decode(batch["tokens"][row, : first + 1]) == examples[number].texts[0] + "\n"
        targets = batch["targets"][row, places]
        assert targets[-1] == tokenizer.end_id
        assert tokenizer.decode(targets) == examples[number].wanted
        # What is predicted at a place is what the next place reads; the end token is never read.
        np.testing.assert_array_equal(batch["tokens"][row, first + 1 : last + 1], targets[:-1])
        assert batch["mask"][row].sum() == last + 1


def test_rows_of_another_objective_are_refused(prepared):
    config, dataset = prepared["classification"]
    with pytest.raises(ValueError, match=r"^objective=seq2seq cannot read the labelled rows of "):
        Batches(dataset, "train", config=config, objective="seq2seq", batch_size=4, seed=0)
