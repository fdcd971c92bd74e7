"""A dataset is found again by the settings that decide its rows, and by nothing else."""

import dataclasses
import json
import shutil

import pytest
from small_tokenizers import directory_of

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.preparation.cache_places import find_places, stored_settings

TEXTS = ["The quick brown fox.", "A lazy dog.", "Who wrote that?", "An answer in its context."]


@pytest.fixture
def files(tmp_path):
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_text(text)
    return (str(tmp_path / "*.txt"),)


@pytest.fixture
def llama(tmp_path):
    """A copy of the directory, which tests may change."""
    return shutil.copytree(directory_of("llama"), tmp_path / "llama")


def config_of(files, tokenizer, **fields) -> DataConfig:
    return DataConfig(files=files, tokenizer=str(tokenizer / "tokenizer.json"), sequence_length=16, **fields)


def make(config, tmp_path, objective="causal"):
    return prepare(config, objective, cache=tmp_path / "cache", log=lambda line: None)


def test_framing_decides_the_rows_of_a_loaded_tokenizer_and_their_fingerprint(files, llama, tmp_path):
    framed, ended = (make(config_of(files, llama, framing=name), tmp_path) for name in ("template", "end"))
    assert framed.directory != ended.directory
    assert framed.fingerprint != ended.fingerprint
    assert framed.statistics["train"]["num_leading"] == framed.statistics["train"]["num_documents"]
    assert ended.statistics["train"]["num_leading"] == 0


def test_framing_that_changes_no_row_changes_no_fingerprint(files, tmp_path):
    gpt2 = directory_of("gpt2")
    framed, ended = (make(config_of(files, gpt2, framing=name), tmp_path) for name in ("template", "end"))
    assert framed.fingerprint == ended.fingerprint
    trained = DataConfig(files=files, tokenizer="bytes", sequence_length=16)
    assert (
        make(trained, tmp_path).directory
        == make(dataclasses.replace(trained, framing="end"), tmp_path).directory
    )


def test_another_role_beside_the_tokenizer_makes_another_dataset(files, llama, tmp_path):
    before = make(config_of(files, llama), tmp_path)
    settings = json.loads((llama / "tokenizer_config.json").read_text())
    (llama / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<unk>"}))
    after = make(config_of(files, llama), tmp_path)
    assert after.fingerprint != before.fingerprint
    assert after.tokenizer.end_id == 0
    assert make(config_of(files, llama, framing="spelled"), tmp_path).tokenizer.end_id == 2


def test_a_dataset_of_version_0_1_is_used_again_where_its_rows_are_the_same(files, llama, tmp_path):
    for tokenizer, is_used in ((directory_of("gpt2"), True), (llama, False)):
        config = config_of(files, tokenizer)
        made = make(dataclasses.replace(config, framing="spelled"), tmp_path)
        inventory = {
            "files": [
                [str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in sorted(tmp_path.glob("*.txt"))
            ]
        }
        places = find_places(made.directory.parent, config, stored_settings(config, "packed"), inventory, ())
        assert places.former is not None
        made.directory.rename(places.former)
        assert (make(config, tmp_path).directory == places.former) is is_used


@pytest.mark.parametrize(("text", "changes"), [("a </s> b", True), ("a b", False)])
def test_markup_in_labelled_examples_counts_where_a_text_spells_some(text, changes, llama, tmp_path):
    (tmp_path / "a.csv").write_text(f"text,label\n{text},x\nb,y\nc,x\nd,y\n")
    config = DataConfig(
        files=(str(tmp_path / "a.csv"),), tokenizer=str(llama / "tokenizer.json"), sequence_length=16
    )
    read, kept = (
        make(dataclasses.replace(config, markup=markup), tmp_path, "classification")
        for markup in (None, False)
    )
    assert (read.fingerprint != kept.fingerprint) is changes
    assert read.settings.get("markup", False) is changes


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "bytes", "unigram"])
def test_a_trained_tokenizer_is_told_by_its_kind_and_size_alone(kind):
    settings = stored_settings(DataConfig(tokenizer=kind, vocab_size=500), "packed")
    size = {} if kind == "bytes" else {"vocab_size": 500}
    assert settings == {
        **{"layout": "packed", "sequence_length": 128, "tokenizer": kind, "embedded": "all"},
        **{"valid_fraction": 0.05, "seed": 0},
        **size,
    }
