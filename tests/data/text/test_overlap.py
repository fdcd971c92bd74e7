"""No file is both trained on and held out, whatever it is called."""

import json
import os
import shutil
from typing import Any

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.corpus import read_examples, split_examples
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.text import overlap
from flaxmill.data.text.held_out import split_corpus


@pytest.fixture
def texts(tmp_path):
    for number in (40, 41, 42, 420, 43):
        (tmp_path / f"{number}.txt").write_text(f"The text of number {number}.\n" * 5)
    return tmp_path


def config_of(directory, files="4*.txt", valid_files="42*.txt", **fields):
    return DataConfig(files=(str(directory / files),), valid_files=(str(directory / valid_files),), **fields)


def split(config, lines):
    found = {"train": [], "valid": []}
    for its_split, document in split_corpus(config, lines.append).documents():
        found[its_split].append(document.text.split()[4].strip("."))
    return found


def test_a_file_that_both_fields_match_is_held_out_alone_and_that_is_said(texts):
    lines = []
    assert split(config_of(texts), lines) == {"train": ["40", "41", "43"], "valid": ["42", "420"]}
    first, second = (texts / name for name in ("42.txt", "420.txt"))
    assert lines == [f"not trained on: {first}, {second}, which data.valid_files names too"]


@pytest.mark.parametrize("copy", [shutil.copyfile, os.symlink, os.link])
def test_a_copy_under_another_path_is_found(texts, copy):
    (texts / "held").mkdir()
    copy(texts / "41.txt", texts / "held" / "other.txt")
    lines = []
    assert split(config_of(texts, valid_files="held/*"), lines)["train"] == ["40", "42", "420", "43"]
    assert lines[0].startswith(f"not trained on: {texts / '41.txt'}, which ")


def test_files_of_one_size_are_no_copies(texts, monkeypatch):
    monkeypatch.setattr(overlap, "_digest", lambda source: pytest.fail("their beginnings differ"))
    lines = []
    assert split(config_of(texts, files="4[013].txt", valid_files="42.txt"), lines)["train"] == [
        "40",
        "41",
        "43",
    ]
    assert lines == []


def test_files_that_begin_alike_are_compared_to_their_end(tmp_path):
    start = "x" * 70_000
    (tmp_path / "train.txt").write_text(start + "a")
    (tmp_path / "valid.txt").write_text(start + "b")
    config = config_of(tmp_path, "train.txt", "valid.txt")
    lines = []
    assert len(list(split_corpus(config, lines.append).documents())) == 6
    assert lines == []


def test_where_nothing_is_left_to_train_on_that_is_refused(texts):
    config = config_of(texts, files="42.txt")
    with pytest.raises(
        ValueError, match=r"^data\.files=.* holds nothing to train on: .*42\.txt, which data\.valid"
    ):
        split_corpus(config)
    shutil.copyfile(texts / "40.txt", texts / "copy.txt")
    config = config_of(texts, files="copy.txt", valid_files="40.txt")
    with pytest.raises(
        ValueError, match=r"holds nothing to train on: .*copy\.txt, which holds the same as a file of"
    ):
        list(split_corpus(config).documents())


def test_the_same_files_may_be_trained_on_and_measured_which_is_said(texts):
    lines = []
    found = split(config_of(texts, "42*.txt", "42*.txt"), lines)
    assert found["train"] == found["valid"] == ["42", "420"]
    assert lines == [
        "data.valid_files names the training files themselves: held-out scores are training scores"
    ]


def test_training_files_that_hold_the_same_are_said(texts):
    shutil.copyfile(texts / "40.txt", texts / "400.txt")
    lines = []
    config = DataConfig(files=(str(texts / "40*.txt"),))
    list(split_corpus(config, lines.append).documents())
    (line,) = lines
    assert line.endswith(f": {texts / '400.txt'} holds the same as {texts / '40.txt'}; all are read")


def test_empty_files_are_copies_of_nothing(texts):
    for name in ("a.md", "b.md"):
        (texts / name).write_text("")
    config = DataConfig(
        files=(str(texts / "40.txt"), str(texts / "a.md")),
        valid_files=(str(texts / "43.txt"), str(texts / "b.md")),
    )
    lines = []
    assert split(config, lines) == {"train": ["40"], "valid": ["43"]}
    assert lines == []


def test_examples_are_held_out_as_texts_are(tmp_path):
    for name in ("a", "b", "c"):
        rows = [{"text": f"{name} {number}", "label": number % 2} for number in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copyfile(tmp_path / "a.jsonl", tmp_path / "copy.json")
    config = config_of(tmp_path, "?.jsonl", "copy.json")
    lines = []
    examples = list(split_examples(config, "classification", lines.append).examples())
    assert [example.texts[0][0] for its_split, example in examples if its_split == "train"] == list(
        "bbbbcccc"
    )
    assert lines == [
        f"not trained on: {tmp_path / 'a.jsonl'}, which holds the same as a file of data.valid_files"
    ]
    assert next(example.texts[0] for example in read_examples(config, "classification", "train")) == "b 0"
    assert next(example.texts[0] for example in read_examples(config, "classification", "valid")) == "a 0"


def test_a_dataset_knows_what_was_left_out(texts, tmp_path):
    def make(config):
        return prepare(config, "causal", cache=tmp_path / "cache", log=lambda line: None)

    fields: Any = dict(tokenizer="bytes", sequence_length=32)
    overlapping = make(config_of(texts, **fields))
    disjoint = make(config_of(texts, files="4[013].txt", **fields))
    assert overlapping.directory == disjoint.directory
    everything = make(config_of(texts, files="4*.txt", valid_files="43.txt", **fields))
    assert everything.fingerprint != disjoint.fingerprint
