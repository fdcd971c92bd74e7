"""Tensor files of others are read in every dtype and split; a torn file is one clear line."""

import json
import os
import pickle
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from flaxmill.model.config_json.files import read_json
from flaxmill.model.huggingface.files import read_weights, tensor_names

TENSORS = {
    "full": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.arange(6, dtype=np.float16),
    "brain": np.arange(6).astype(jnp.bfloat16),
    "number": np.arange(3),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}


def write_shards(directory) -> None:
    halves = [dict(list(TENSORS.items())[:3]), dict(list(TENSORS.items())[3:])]
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for file, tensors in zip(files, halves, strict=True):
        save_file(tensors, directory / file)
    weight_map = {name: file for file, half in zip(files, halves, strict=True) for name in half}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def assert_same(found) -> None:
    assert found.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_safetensors_read_as_they_were_written(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert_same(read_weights(tmp_path))


def test_tensors_are_views_of_the_mapped_file(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    array = read_weights(tmp_path)["full"]
    assert not array.flags.writeable
    assert not array.flags.owndata


def test_shards_read_as_one_file(tmp_path):
    write_shards(tmp_path)
    assert_same(read_weights(tmp_path))
    assert tensor_names(tmp_path) == TENSORS.keys()


def test_an_old_bin_file_reads_the_same(tmp_path):
    tensors = {name: torch.tensor(array) for name, array in TENSORS.items() if name != "brain"}
    tensors["brain"] = torch.arange(6).to(torch.bfloat16)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert_same(read_weights(tmp_path))
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_same(read_weights(tmp_path))


def test_a_bin_file_without_torch_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match="only torch reads; install torch"):
        read_weights(tmp_path)


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of a weight file ran')",)


def test_a_pickle_with_code_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"full": Malicious()}))
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        read_weights(tmp_path)


def test_a_directory_without_weights_is_one_line(tmp_path):
    assert tensor_names(tmp_path) == frozenset()
    with pytest.raises(ValueError, match=r"holds no weights; it needs model\.safetensors"):
        read_weights(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_torn_file_is_one_line(tmp_path, keep):
    save_file(TENSORS, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:keep])
    with pytest.raises(ValueError, match=r"is torn or not a safetensors file .*copy it again") as error:
        read_weights(tmp_path)
    assert "\n" not in str(error.value)


def test_an_absent_shard_is_named(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 files that are not there: model-00002-of-00002"):
        read_weights(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path):
    write_shards(tmp_path)
    save_file({}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"names 'brain', which model-00001-of-00002.safetensors lacks"):
        read_weights(tmp_path)


def test_a_torn_index_is_one_line(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {')
    with pytest.raises(ValueError, match="is not JSON"):
        read_weights(tmp_path)


def write_index(directory, weight_map) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    "file",
    [
        *("../elsewhere/model.safetensors", "/etc/passwd", "below/model.safetensors", "..", ".", ""),
        *("a\\b", "a\0b", 3, None, ["model.safetensors"], {}),
    ],
)
def test_a_file_outside_the_directory_is_refused(tmp_path, file):
    directory, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    for path in (directory, directory / "below", elsewhere):
        path.mkdir()
    for path in (directory / "below", elsewhere):
        save_file(TENSORS, path / "model.safetensors")
    write_index(directory, {"full": file})
    with pytest.raises(
        ValueError, match=r"says that 'full' is in .*, which is not a file of the same"
    ) as error:
        read_weights(directory)
    assert "\n" not in str(error.value)


def test_links_to_elsewhere_are_followed_as_in_caches(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    for path in (blobs, snapshot):
        path.mkdir()
    write_shards(blobs)
    for number, path in enumerate(list(blobs.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(blobs / str(number))
    assert_same(read_weights(snapshot))


@pytest.mark.parametrize("index", [{}, {"weight_map": None}, {"weight_map": {}}, {"weight_map": ["full"]}])
def test_an_index_without_a_map_is_one_line(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="has no weight_map, which names the file of each tensor"):
        read_weights(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    write_shards(tmp_path)
    save_file({**TENSORS, "brain": TENSORS["brain"]}, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(ValueError, match="names files that both hold 'brain'; copy them again"):
        read_weights(tmp_path)


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


HEADERS = {
    "length beyond the file": safetensors({"a": entry()}, bytes(8), length=10_000),
    "length of exabytes": safetensors({"a": entry()}, bytes(8), length=2**63 - 1),
    "no JSON": safetensors(b"{'a': 1}", bytes(8)),
    "not UTF-8": safetensors(b'{"\xff": 1}', bytes(8)),
    "a list": safetensors([1], bytes(8)),
    "deep": safetensors(b'{"a":' + b"[" * 100_000, bytes(8)),
    "no entry": safetensors({"a": 3}, bytes(8)),
    "no offsets": safetensors({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "unknown dtype": safetensors({"a": entry(dtype="F31")}, bytes(8)),
    "complex dtype": safetensors({"a": entry(dtype="C64", shape=[1])}, bytes(8)),
    "negative shape": safetensors({"a": entry(shape=[-2])}, bytes(8)),
    "whole floats in a shape": safetensors({"a": entry(shape=[2.0])}, bytes(8)),
    "shape of another size": safetensors({"a": entry(shape=[3])}, bytes(8)),
    "shape beyond all numbers": safetensors({"a": entry(shape=[2**40, 2**40])}, bytes(8)),
    "offsets backwards": safetensors({"a": entry(data_offsets=[8, 0])}, bytes(8)),
    "offsets overlap": safetensors({"a": entry(), "b": entry(data_offsets=[4, 12])}, bytes(12)),
    "a hole": safetensors({"a": entry(), "b": entry(data_offsets=[16, 24])}, bytes(24)),
    "less data": safetensors({"a": entry()}, bytes(7)),
    "more data": safetensors({"a": entry()}, bytes(9)),
    "a name twice": safetensors(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_does_not_hold_is_one_line(tmp_path, name):
    (tmp_path / "model.safetensors").write_bytes(HEADERS[name])
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the whole message is looked at
        read_weights(tmp_path)
    said = str(error.value)
    assert type(error.value) is ValueError
    assert "model.safetensors' " in said
    assert "\n" not in said
    assert len(said) < 500


def test_what_is_no_file_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ValueError, match="holds no weights"):
        read_weights(tmp_path)
    (tmp_path / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(ValueError, match="cannot be read"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"epoch": 3, "state_dict": {"w": torch.ones(2)}}, "holds no tensors but epoch, state_dict"),
        ([torch.ones(2)], "holds a list and no tensors by their names"),
        (torch.ones(2), "holds a Tensor and no tensors by their names"),
        ({}, "holds no tensors but "),
        ({"w": torch.ones(2, dtype=torch.float8_e4m3fn)}, "keeps w as torch.float8_e4m3fn"),
    ],
)
def test_a_bin_file_of_other_things_is_one_line(tmp_path, content, said):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=said) as error:
        read_weights(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [b"", b"PK\x03\x04", b"\x80\x02", b"hello", b"\0" * 100])
def test_a_torn_bin_file_is_one_line(tmp_path, text):
    (tmp_path / "pytorch_model.bin").write_bytes(text)
    with pytest.raises(ValueError, match="cannot be read as tensors") as error:
        read_weights(tmp_path)
    assert "\n" not in str(error.value)


def test_a_torch_that_could_run_a_files_code_is_refused(tmp_path, monkeypatch):
    torch.save({"w": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ValueError, match=r"may run code in torch 2\.5\.1\+cpu; install torch 2\.6 or newer"):
        read_weights(tmp_path)


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"full": "é" * 200}}))
    with pytest.raises(
        ValueError, match=r"says that 'full' is in .*, which is not a file of the same directory"
    ):
        read_weights(tmp_path)


@pytest.mark.parametrize("target", [None, "/dev/zero"])
def test_a_json_file_without_an_end_is_refused(target, tmp_path):
    file = tmp_path / "config.json"
    os.mkfifo(file) if target is None else file.symlink_to(target)
    with pytest.raises(ValueError, match="is not a file; copy it again"):
        read_json(file)


def test_half_a_surrogate_pair_is_refused(tmp_path):
    (file := tmp_path / "config.json").write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json(file) == {"a": "\U0001f600"}
    file.write_text('{"a": ["\\ud83d"]}')
    with pytest.raises(ValueError, match="half of a surrogate pair, which is not a character; correct it"):
        read_json(file)
