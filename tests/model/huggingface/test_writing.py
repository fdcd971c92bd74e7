"""Written weights: readable by safetensors, split as asked, and invisible until they are whole."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from flaxmill.model.huggingface.files import read_weights
from flaxmill.model.huggingface.writing import PartialFiles, write_weights

TENSORS = {f"tensor{number}": np.full((4, number), number, np.float32) for number in range(1, 6)}
SHAPES = {name: tensor.shape for name, tensor in TENSORS.items()}


def write(directory, tensors=TENSORS, max_shard_bytes=10**9) -> None:
    with PartialFiles(directory) as files:
        write_weights(files, SHAPES, iter(tensors.items()), max_shard_bytes)
        files.write_json("config.json", {})
        files.commit()


def names_in(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_one_file_is_what_safetensors_reads(tmp_path):
    write(tmp_path)
    assert names_in(tmp_path) == ["config.json", "model.safetensors"]
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(found[name], tensor)
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_shards_keep_to_their_size_and_the_index_names_them(tmp_path):
    write(tmp_path, max_shard_bytes=16 * 5)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 16 * 15}
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-0000{number}-of-00004.safetensors" for number in range(1, 5)]
    for file in files:
        held = load_file(tmp_path / file)
        assert sum(tensor.nbytes for tensor in held.values()) <= 16 * 5
        assert held.keys() == {name for name, place in index["weight_map"].items() if place == file}
    assert read_weights(tmp_path).keys() == TENSORS.keys()


def test_a_new_model_leaves_nothing_of_the_old_one(tmp_path):
    write(tmp_path, max_shard_bytes=16 * 5)
    (tmp_path / ".model.safetensors.1.partial").write_text("of a run that was killed")
    (tmp_path / "tokenizer.json").write_text("{}")
    write(tmp_path)
    assert names_in(tmp_path) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_failure_leaves_the_old_model_and_no_partial_file(tmp_path):
    write(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def full_disk():
        yield "tensor1", TENSORS["tensor1"]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"), PartialFiles(tmp_path) as files:
        write_weights(files, SHAPES, full_disk())
    assert names_in(tmp_path) == ["config.json", "model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("num_renamed", [0, 1])
def test_a_kill_while_files_take_their_names_leaves_no_config(tmp_path, monkeypatch, num_renamed):
    write(tmp_path)
    done = []

    def replace_until_killed(source, target):
        if len(done) == num_renamed:
            raise KeyboardInterrupt
        done.append(target)

    monkeypatch.setattr("flaxmill.model.huggingface.writing.os.replace", replace_until_killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert not (tmp_path / "config.json").exists()
    assert [path.name for path in done] == ["model.safetensors"][:num_renamed]


def test_a_transposed_view_is_written_in_its_own_order(tmp_path):
    write(tmp_path, {name: np.asfortranarray(tensor) for name, tensor in TENSORS.items()})
    np.testing.assert_array_equal(read_weights(tmp_path)["tensor5"], TENSORS["tensor5"])
