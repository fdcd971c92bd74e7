"""Labelled examples are prepared whole or not at all, found again, and told apart by what changes them."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from task_files import LABELS, TASKS, has_encoder, objective_of, write_task

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.corpus import read_examples
from flaxmill.data.objectives import layout_of
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.prepared.dataset import Dataset, open_dataset


def prepare_task(config: DataConfig, task: str, cache: Path, log=lambda line: None) -> Dataset:
    return prepare(config, objective_of(task), cache=cache, log=log, has_encoder=has_encoder(task))


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_in_the_order_of_the_examples_and_counted(tmp_path, task):
    config = write_task(tmp_path, task)
    dataset = prepare_task(config, task, tmp_path / "cache")
    assert dataset.layout == layout_of(objective_of(task), has_encoder(task))
    for split in ("train", "valid"):
        statistics = dataset.statistics[split]
        rows = dataset.read(split, np.arange(statistics["num_rows"]))
        examples = list(read_examples(config, objective_of(task), split))
        assert statistics["num_examples"] == len(examples)
        assert statistics["num_rows"] >= len(examples)
        np.testing.assert_array_equal(np.unique(rows["number"]), np.arange(len(examples)))
        assert (np.diff(rows["number"]) >= 0).all()
        lengths = rows["length"] + rows.get("target_length", 0)
        assert statistics["num_tokens"] == lengths.sum()
        assert (statistics["min_length"], statistics["max_length"]) == (lengths.min(), lengths.max())
        assert statistics["median_length"] == np.sort(lengths)[(len(lengths) - 1) // 2]
        texts = [text for example in examples for text in example.texts]
        assert statistics["num_bytes"] == sum(map(len, texts))


@pytest.mark.parametrize("task", TASKS)
def test_a_dataset_is_found_again_without_reading(tmp_path, task):
    config = write_task(tmp_path, task)
    first = prepare_task(config, task, tmp_path / "cache")
    path = Path(config.files[0])
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    lines: list[str] = []
    assert prepare_task(config, task, tmp_path / "cache", lines.append).fingerprint == first.fingerprint
    assert lines == []


def test_labels_and_their_counts_are_stored(tmp_path):
    config = write_task(tmp_path, "classification")
    dataset = prepare_task(config, "classification", tmp_path / "cache")
    assert open_dataset(dataset.directory).labels == dataset.labels == LABELS
    for split in ("train", "valid"):
        wanted = [example.wanted for example in read_examples(config, "classification", split)]
        assert dataset.statistics[split]["label_counts"] == [wanted.count(label) for label in LABELS]


def test_of_many_labels_those_that_apply_are_counted(tmp_path):
    config = write_task(tmp_path, "multi_label")
    dataset = prepare_task(config, "multi_label", tmp_path / "cache")
    assert open_dataset(dataset.directory).labels == LABELS
    for split in ("train", "valid"):
        wanted = [example.wanted for example in read_examples(config, "classification", split)]
        statistics = dataset.statistics[split]
        assert statistics["applied_counts"] == [sum(label in one for one in wanted) for label in LABELS]
        assert statistics["num_without_label"] == wanted.count([])
        assert "label_counts" not in statistics  # these would give a commonest label


def test_of_numbers_mean_and_deviation_are_stored(tmp_path):
    config = write_task(tmp_path, "regression")
    dataset = prepare_task(config, "regression", tmp_path / "cache")
    wanted = [example.wanted for example in read_examples(config, "classification", "train")]
    statistics = dataset.statistics["train"]
    assert statistics["label_mean"] == pytest.approx(np.mean(wanted))
    assert statistics["label_std"] == pytest.approx(np.std(wanted))
    assert dataset.labels == ()


def test_a_config_that_names_the_labels_it_found_has_the_same_dataset(tmp_path):
    config = write_task(tmp_path, "classification")
    found = prepare_task(config, "classification", tmp_path / "cache")
    named = dataclasses.replace(config, labels=found.labels)
    assert prepare_task(named, "classification", tmp_path / "cache").directory == found.directory
    elsewhere = prepare_task(named, "classification", tmp_path / "elsewhere")
    assert elsewhere.fingerprint == found.fingerprint
    other = dataclasses.replace(config, labels=LABELS[::-1])
    others = prepare_task(other, "classification", tmp_path / "cache")
    assert others.labels == LABELS[::-1]
    assert others.fingerprint != found.fingerprint


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("classification", {"sequence_length": 16}),
        ("classification", {"seed": 3}),
        ("pairs", {"pair_column": None}),
        ("answers", {"stride": 5}),
        ("translation", {"target_length": 9}),
        ("prompts", {"separator": " = "}),
        ("prompts", {"target_length": 9}),
    ],
)
def test_what_changes_the_rows_changes_the_fingerprint(tmp_path, task, changes):
    config = write_task(tmp_path, task)
    first = prepare_task(config, task, tmp_path / "cache")
    second = prepare_task(dataclasses.replace(config, **changes), task, tmp_path / "cache")
    assert first.fingerprint != second.fingerprint


def test_settings_that_do_not_change_the_rows_do_not_prepare_them_again(tmp_path):
    config = write_task(tmp_path, "classification")
    first = prepare_task(config, "classification", tmp_path / "cache")
    other = dataclasses.replace(config, stride=7, target_length=9, mask_rate=0.3)
    assert prepare_task(other, "classification", tmp_path / "cache").directory == first.directory


def test_a_decoder_and_an_encoder_decoder_have_datasets_of_their_own(tmp_path):
    config = write_task(tmp_path, "translation")
    layouts = [
        prepare(config, "seq2seq", cache=tmp_path / "cache", log=lambda line: None, has_encoder=has).layout
        for has in (True, False)
    ]
    assert layouts == ["sources", "prompts"]


@pytest.mark.parametrize("task", [task for task in TASKS if task != "answers"])
def test_one_example_can_be_measured_or_predicted_with_a_run_s_tokenizer_and_labels(tmp_path, task):
    config = write_task(tmp_path, task)
    trained = prepare_task(config, task, tmp_path / "cache")
    path = tmp_path / "one.jsonl"
    path.write_text(Path(config.files[0]).read_text().splitlines()[0] + "\n")
    for columns in ({}, {"label_column": None, "target_column": None}):
        other = dataclasses.replace(
            config,
            files=(str(path),),
            valid_files=(str(path),),
            tokenizer=str(trained.directory / "tokenizer.json"),
            labels=trained.labels,
            **columns,
        )
        dataset = prepare_task(other, task, tmp_path / "cache")
        assert dataset.labels == trained.labels
        assert dataset.statistics["valid"]["num_rows"] == 1


def test_a_bad_row_is_named_and_leaves_nothing_behind(tmp_path):
    config = write_task(tmp_path, "classification")
    path = Path(config.files[0])
    path.write_text(path.read_text() + '{"text": "a", "label": null}\n')
    with pytest.raises(
        ValueError, match=r"^row 61 of .*jsonl has no label in the column 'label'; give it one"
    ):
        prepare_task(config, "classification", tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache" / "data").iterdir() if path.is_dir()]


def test_a_label_of_held_out_files_that_training_lacks_is_refused(tmp_path):
    config = write_task(tmp_path, "classification")
    path = tmp_path / "valid.jsonl"
    path.write_text('{"text": "a", "label": "plant"}\n')
    config = dataclasses.replace(config, valid_files=(str(path),))
    with pytest.raises(
        ValueError, match=r"^row 1 of .*valid.jsonl: the label 'plant' is unknown; known are animal, o"
    ):
        prepare_task(config, "classification", tmp_path / "cache")


@pytest.mark.parametrize(
    ("objective", "tokenizer", "tokens"),
    [
        ("question_answering", "bpe", r"\[CLS\], \[SEP\]"),
        ("question_answering", "bytes", r"\[CLS\], \[SEP\]"),
    ],
)
def test_a_tokenizer_that_lacks_what_the_task_needs_is_refused_before_it_is_trained(
    tmp_path, objective, tokenizer, tokens
):
    config = dataclasses.replace(write_task(tmp_path, "answers"), tokenizer=tokenizer)
    lines: list[str] = []
    with pytest.raises(
        ValueError, match=rf"^objective={objective} needs the tokens {tokens}, which data.tokenizer="
    ):
        prepare(config, objective, cache=tmp_path / "cache", log=lines.append)
    assert lines == []


def test_cut_examples_are_told(tmp_path):
    lines: list[str] = []
    config = dataclasses.replace(write_task(tmp_path, "classification"), sequence_length=8)
    dataset = prepare_task(config, "classification", tmp_path / "cache", lines.append)
    num_cut = dataset.statistics["train"]["num_cut"]
    num_examples = dataset.statistics["train"]["num_examples"]
    assert 0 < num_cut < num_examples
    assert f"{num_cut} of {num_examples} train examples are cut to fit data.sequence_length=8" in lines
