"""A manifest is read as it was written, or the dataset counts as damaged; no value is taken on trust."""

import json
import os
from typing import Any

import numpy as np
import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.prepared.dataset import TOKENIZER, Dataset, open_dataset
from flaxmill.data.prepared.manifest import MANIFEST, DamagedDatasetError, read_manifest, write_manifest
from flaxmill.data.prepared.shards import hash_file


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    rows = [{"text": f"the mill {number}", "label": "ab"[number % 2]} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(files=(str(tmp_path / "rows.jsonl"),), sequence_length=24, tokenizer="bytes")
    return prepare(config, "classification", cache=tmp_path / "cache", log=lambda line: None)


def stored(dataset: Dataset) -> dict[str, Any]:
    return read_manifest(dataset.directory)


def test_a_manifest_comes_back_as_it_was_written(tmp_path, dataset):
    manifest = stored(dataset)
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


def test_any_changed_value_is_seen(dataset):
    file = dataset.directory / MANIFEST
    text = file.read_text()
    for old, new in (
        ('"corpus": "', '"corpus": "x'),
        ('"pad_id"', '"pad_ie"'),
        ('"num_rows": ', '"num_rows": 1'),
    ):
        file.write_text(text.replace(old, new, 1))
        if file.read_text() != text:
            with pytest.raises(
                DamagedDatasetError, match="has changed since it was written; prepare it again"
            ):
                open_dataset(dataset.directory)


def test_a_manifest_of_version_0_1_0_has_no_checksum_and_is_read(dataset):
    file = dataset.directory / MANIFEST
    content = json.loads(file.read_text())
    del content["checksum"]
    file.write_text(json.dumps(content))
    assert open_dataset(dataset.directory).fingerprint == dataset.fingerprint


def changed(manifest: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parts, last = path.split("/")
    within = manifest
    for part in parts:
        within = within[part]
    if value is KeyError:
        del within[last]
    else:
        within[last] = value
    return manifest


@pytest.mark.parametrize(
    ("path", "value", "odd"),
    [
        ("fingerprint", 1, "fingerprint"),
        ("layout", KeyError, "layout"),
        ("layout", "packed", "layout"),
        ("corpus", None, "corpus"),
        ("sequence_length", True, "sequence_length"),
        ("sequence_length", 25, "sequence_length"),
        ("vocab_size", "258", "vocab_size"),
        ("settings", [], "settings"),
        ("labels", "ab", "labels"),
        ("labels", ["a", 1], "labels"),
        ("statistics/train", KeyError, "statistics or shards of train"),
        ("statistics/train/num_rows", 1, "statistics or shards of train"),
        ("statistics/train/num_rows", "a", "statistics or shards of train"),
        ("statistics/valid/label_counts", [1], "statistics or shards of valid"),
        ("shards/valid", None, "statistics or shards of valid"),
        ("shards/train", [["a", 1]], "statistics or shards of train"),
        ("shards/train", [["../a", 1, 1]], "statistics or shards of train"),
        ("shards/train", [["", 1, 1]], "statistics or shards of train"),
        ("shards/train", [["a", -1, 1]], "statistics or shards of train"),
    ],
)
def test_a_part_that_is_not_as_it_is_written_is_named(path, value, odd, dataset):
    write_manifest(dataset.directory, changed(stored(dataset), path, value))
    with pytest.raises(DamagedDatasetError, match=f"has no valid {odd}; prepare it again"):
        open_dataset(dataset.directory)


@pytest.mark.parametrize(
    "text", ["[]", "{", "\\xff", "[" * 200_000, '{"format_version": ["' + "a" * 5000 + '"]}']
)
def test_what_is_no_manifest_is_refused_in_a_short_line(text, dataset):
    (dataset.directory / MANIFEST).write_text(text)
    with pytest.raises(DamagedDatasetError) as caught:
        open_dataset(dataset.directory)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("target", [None, "/dev/zero"])
def test_a_manifest_without_an_end_is_not_waited_for(target, dataset):
    (file := dataset.directory / MANIFEST).unlink()
    os.mkfifo(file) if target is None else file.symlink_to(target)
    with pytest.raises(DamagedDatasetError, match="it is not a file"):
        open_dataset(dataset.directory)


def test_a_tokenizer_of_another_size_is_not_the_datasets(dataset):
    content = json.loads((dataset.directory / TOKENIZER).read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 258, "content": "[NEW]"})
    (dataset.directory / TOKENIZER).write_text(json.dumps(content))
    digest = hash_file(dataset.directory / TOKENIZER)
    write_manifest(dataset.directory, stored(dataset) | {"tokenizer_sha256": digest})
    with pytest.raises(DamagedDatasetError, match="is not the dataset's; prepare it again"):
        open_dataset(dataset.directory)


def test_rows_of_another_length_or_number_than_the_manifest_says_are_damage(dataset):
    manifest = stored(dataset)
    settings = {**manifest["settings"], "sequence_length": 20}
    write_manifest(dataset.directory, {**manifest, "settings": settings, "sequence_length": 20})
    with pytest.raises(
        OSError, match=r"has rows of .* bytes, its settings say .*; delete it to have it prepared"
    ):
        open_dataset(dataset.directory).read("train", np.arange(1))
    ((file, number, size),) = manifest["shards"]["train"]
    manifest["shards"]["train"] = [[file, number + 1, size]]
    manifest["statistics"]["train"]["num_rows"] = number + 1
    write_manifest(dataset.directory, manifest)
    with pytest.raises(OSError, match=f"is damaged .{number} rows and not {number + 1}.; delete"):
        open_dataset(dataset.directory).read("train", np.arange(1))


def test_a_tokenizer_of_a_dataset_is_not_tried_again(dataset, monkeypatch):
    def refuse(*arguments: object) -> str:
        raise AssertionError

    monkeypatch.setattr("flaxmill.data.tokenization.try_reading", refuse)
    assert open_dataset(dataset.directory).tokenizer.vocab_size == 258
