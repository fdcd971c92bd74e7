"""Files of tensors as others write them: every dtype and split, and one clear line for a torn one."""

import json
import pickle
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from flaxmill.model.weight_files import read_weights, tensor_names

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
    with pytest.raises(ValueError, match=r"is torn or no safetensors file .*copy it again") as error:
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
