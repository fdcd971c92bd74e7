"""Weights that are wrapped or spoiled: what can be read is read, and the log says what was found."""

import logging
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxmill.model import ModelConfig, init_params, load_huggingface, save_huggingface
from flaxmill.model.huggingface.directory import read_huggingface_config
from flaxmill.model.huggingface.files import Arrays
from flaxmill.sharding.mesh import MeshConfig, make_mesh

CONFIG = ModelConfig(
    family="gpt2", vocab_size=101, max_positions=24, num_layers=3, embed_dim=32, num_heads=4, mlp_dim=40,
    head="lm", causal=True,
)  # fmt: skip
UP = "transformer.h.1.mlp.c_fc.weight"


@pytest.fixture
def params():
    return init_params(CONFIG, jax.random.key(0))


@pytest.fixture
def changed(params, tmp_path) -> Callable[[Callable[[Arrays], Arrays | None]], Path]:
    """Makes the directory of a model whose tensors a function changed, in place or by returning others."""

    def make(change: Callable[[Arrays], Arrays | None]) -> Path:
        save_huggingface(tmp_path, CONFIG, params)
        arrays = load_file(tmp_path / "model.safetensors")
        save_file(change(arrays) or arrays, tmp_path / "model.safetensors")
        return tmp_path

    return make


def wrapped(prefix: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {f"{prefix}{name}": array for name, array in arrays.items()}


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "module._orig_mod."])
def test_a_model_saved_within_torchs_wrappers_reads_the_same(wrapper, changed, params, caplog):
    directory = changed(wrapped(wrapper))
    with caplog.at_level(logging.WARNING, "flaxmill.weights"):
        config, loaded = load_huggingface(directory)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert read_huggingface_config(directory) == config
    assert "puts before their names" in caplog.text


@pytest.mark.parametrize(
    ("prefix", "named"),
    [("student.net.", "'student.net.'"), ("model.", "'model.'"), ("a.module.", "'a.module.'")],
)
def test_another_prefix_of_all_names_is_named_instead_of_a_list(prefix, named, changed):
    with pytest.raises(ValueError, match=f"the names of all 40 tensors begin with {named}") as error:
        load_huggingface(changed(wrapped(prefix)))
    assert "missing" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tensors_with_nan_or_infinity_are_named(value, changed, caplog):
    def spoil(arrays: Arrays) -> None:
        arrays[UP][3, :2] = value
        arrays["transformer.ln_f.bias"][0] = value

    with caplog.at_level(logging.WARNING, "flaxmill.weights"):
        _, params = load_huggingface(changed(spoil))
    assert not np.isfinite(params["final_norm"]["bias"][0])
    assert "NaN or infinity is in 2 of its tensors" in caplog.text
    assert caplog.text.strip().endswith(f"{UP} (2), transformer.ln_f.bias (1)")


def test_weights_on_a_mesh_count_each_value_once(changed, caplog):
    def spoil(arrays: Arrays) -> None:
        arrays[UP][:, :2] = np.nan

    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with caplog.at_level(logging.WARNING, "flaxmill.weights"):
        load_huggingface(changed(spoil), mesh=mesh)
    assert caplog.text.strip().endswith(f"{UP} (64)")


def test_finite_weights_are_loaded_without_a_word_however_large(changed, caplog):
    def enlarge(arrays: Arrays) -> None:
        arrays["transformer.wte.weight"][:] = 3e38  # their sum is infinite

    with caplog.at_level(logging.WARNING, "flaxmill.weights"):
        load_huggingface(changed(enlarge))
    assert caplog.text == ""


def test_numbers_beyond_float32_are_counted_as_infinite(changed, caplog):
    def widen(arrays: Arrays) -> None:
        arrays[UP] = arrays[UP].astype(np.float64)
        arrays[UP][0, 0] = 1e300

    with caplog.at_level(logging.WARNING, "flaxmill.weights"):
        load_huggingface(changed(widen))
    assert "NaN or infinity is in 1 of its tensors" in caplog.text
