"""Reading and writing Hugging Face directories: lossless, strict, and the same on every mesh."""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxmill.model import ModelConfig, abstract_params, load_huggingface, save_huggingface
from flaxmill.model.families.table import FAMILIES
from flaxmill.model.huggingface.directory import read_huggingface_config, stored_tensors
from flaxmill.model.huggingface.files import Arrays
from flaxmill.model.huggingface.loading import read_slice
from flaxmill.model.huggingface.places import leaves
from flaxmill.model.params import flatten
from flaxmill.sharding.mesh import MeshConfig, make_mesh

GPT2 = ModelConfig(
    family="gpt2", vocab_size=101, max_positions=24, num_layers=3, embed_dim=32, num_heads=4, head="lm",
    causal=True, mlp_dim=40, attention_dropout=0.0,
)  # fmt: skip
BERT = dataclasses.replace(
    GPT2, family="bert", head="mlm", causal=False, norm_position="post", embedding_norm=True, num_segments=2,
    activation="gelu", initializer="bert",
)  # fmt: skip
LLAMA = dataclasses.replace(
    GPT2, family="llama", positions="rotary", norm="rmsnorm", activation="silu", gated_mlp=True,
    use_bias=False, num_kv_heads=2, head_dim=10, tie_embeddings=False,
)  # fmt: skip
NEOX = dataclasses.replace(
    GPT2, family="gpt_neox", positions="rotary", rotary_fraction=0.5, parallel_residual=True,
    activation="gelu", tie_embeddings=False,
)  # fmt: skip
CONFIGS = {config.family: config for config in (GPT2, BERT, LLAMA, NEOX)}


def draw(config: ModelConfig):
    """Draw parameters, none of them constant, so that no swap goes unseen; padding is zero."""
    rng = np.random.default_rng(0)

    def values(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        drawn = rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        if leaf.shape[0] == config.padded_vocab_size:
            drawn[config.vocab_size :] = 0
        return drawn

    return jax.tree.map(values, abstract_params(config))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Callable[[str], Path]:
    """The directory of a family's model, written once; tests that change files copy it."""
    made: dict[str, Path] = {}

    def directory(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            save_huggingface(made[family], CONFIGS[family], draw(CONFIGS[family]))
        return made[family]

    return directory


@pytest.fixture
def changed(saved, tmp_path):
    """A copy of a model whose tensors or settings a function changed in place."""

    def make(family: str = "gpt2", tensors: Callable[[Arrays], object] = id, **settings) -> Path:
        arrays = load_file(saved(family) / "model.safetensors")
        tensors(arrays)
        save_file(arrays, tmp_path / "model.safetensors")
        config = json.loads((saved(family) / "config.json").read_text()) | settings
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make


def rename(pattern: str, new: str) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        for name in [name for name in arrays if pattern in name]:
            arrays[name.replace(pattern, new)] = arrays.pop(name)

    return change


def assert_equal(found, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def error_of(directory: Path, **arguments) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011  # tests look at the whole message
        load_huggingface(directory, **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("family", CONFIGS)
def test_export_then_import_is_the_identity(family, saved):
    config, params = load_huggingface(saved(family))
    assert_equal(params, draw(CONFIGS[family]))
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == "float32" for leaf in jax.tree.leaves(params))
    assert config.family == family
    assert read_huggingface_config(saved(family)) == config


@pytest.mark.parametrize("family", CONFIGS)
def test_import_then_export_gives_the_same_files(family, saved, tmp_path):
    save_huggingface(tmp_path, *load_huggingface(saved(family)))
    for path in saved(family).iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 4, 2)])
def test_a_mesh_holds_the_same_parameters(family, sizes, saved):
    mesh = make_mesh(MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]))
    _, params = load_huggingface(saved(family), mesh=mesh)
    assert_equal(params, draw(CONFIGS[family]))
    kernel = params["layers"]["mlp"]["up"]["kernel"]
    shard = kernel.addressable_shards[0].data.shape
    assert shard == (3, 32 // sizes[1], 40 // sizes[2])
    names = dict(stored_tensors(CONFIGS[family], params))
    assert_equal(names, load_file(saved(family) / "model.safetensors"))


def test_parameters_taken_over_from_host_buffers_may_be_donated(saved):
    _, params = load_huggingface(saved("gpt2"))
    doubled = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree), donate_argnums=0)(params)
    assert_equal(doubled, jax.tree.map(lambda leaf: 2 * leaf, draw(GPT2)))
    assert_equal(load_huggingface(saved("gpt2"))[1], draw(GPT2))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_becomes_float32(dtype, changed):
    def halve(arrays: Arrays) -> None:
        arrays |= {name: array.astype(dtype) for name, array in arrays.items()}

    _, params = load_huggingface(changed("llama", halve))
    assert_equal(params, jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), draw(LLAMA)))


@pytest.mark.parametrize(
    "change",
    [
        rename("transformer.", ""),
        rename("ln_f.weight", "ln_f.gamma"),
        rename("ln_f.bias", "ln_f.beta"),
        lambda arrays: arrays.update({"transformer.h.0.attn.bias": np.ones((1, 1, 8, 8), bool)}),
        lambda arrays: arrays.update({"lm_head.weight": arrays["transformer.wte.weight"]}),
        lambda arrays: arrays.update({"lm_head.weight": arrays.pop("transformer.wte.weight")}),
    ],
    ids=["without prefix", "gamma", "beta", "buffer", "tied copy", "tied copy alone"],
)
def test_old_spellings_read_the_same(change, changed):
    assert_equal(load_huggingface(changed("gpt2", change))[1], draw(GPT2))


def test_a_prefix_that_the_head_does_not_have_is_taken_off(saved, changed):
    directory = changed("gpt2", architectures=["GPT2Model"])
    params = draw(GPT2)
    assert_equal(load_huggingface(directory)[1], params)


def test_a_tied_copy_that_differs_is_an_error(changed):
    def spoil(arrays: Arrays) -> None:
        arrays["lm_head.weight"] = arrays["transformer.wte.weight"] + 1

    assert "lm_head.weight differs from transformer.wte.weight" in error_of(changed("gpt2", spoil))


def test_all_differences_are_in_one_line(changed):
    def spoil(arrays: Arrays) -> None:
        for layer in range(3):
            for name in ("c_fc", "c_proj"):
                for kind in ("weight", "bias"):
                    del arrays[f"transformer.h.{layer}.mlp.{name}.{kind}"]
        arrays["adapter"] = np.zeros((2, 3), np.float32)
        arrays["transformer.ln_f.bias"] = np.zeros(7, np.float32)

    message = error_of(changed("gpt2", spoil))
    assert (
        "12 missing: transformer.h.0.mlp.c_fc.bias [40], transformer.h.0.mlp.c_fc.weight [32, 40]" in message
    )
    assert "and 4 more" in message
    assert "1 unexpected: adapter [2, 3]" in message
    assert "1 of another shape: transformer.ln_f.bias [7] instead of [32]" in message


def drop(pattern: str) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        for name in [name for name in arrays if pattern in name]:
            del arrays[name]

    return change


def pad_vocabulary(arrays: Arrays) -> None:
    arrays["transformer.wte.weight"] = np.zeros((128, 32), np.float32)


@pytest.mark.parametrize(
    ("family", "change", "settings", "cause"),
    [
        ("gpt2", pad_vocabulary, {}, "set vocab_size in config.json to 128"),
        ("gpt2", drop("h.2."), {}, "more layers"),
        ("gpt2", id, {"n_layer": 2}, "layers that config.json does not mention"),
        ("gpt2", id, {"n_inner": 41}, "a size in config.json differs from the file's"),
        (
            "gpt2",
            id,
            {"architectures": ["GPT2ForSequenceClassification"]},
            "give head='classification' to init",
        ),
        ("gpt2", rename("c_fc", "fc"), {}, "names differ"),
        ("llama", drop("lm_head"), {}, "or set tie_word_embeddings to true"),
        ("gpt2", id, {"model_type": "llama", "architectures": None}, "most of the model is missing"),
    ],
    ids=["padding", "fewer layers", "more layers", "size", "head", "names", "untied", "family"],
)
def test_the_likely_cause_is_named(family, change, settings, cause, changed):
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
    head = {"head": "lm"} if settings.get("architectures", 1) is None else {}
    directory = changed(family, change, **(sizes if head else {}), **settings)
    assert cause in error_of(directory, **head)


def test_a_new_head_is_initialised_on_request_and_said(changed, saved, caplog):
    with caplog.at_level(logging.WARNING, "flaxmill.weights"):
        config, params = load_huggingface(saved("bert"), head="classification", num_labels=5)
    assert (config.head, config.num_labels) == ("classification", 5)
    assert params["classifier"]["kernel"].shape == (32, 5)
    assert "newly initialised" in caplog.text
    assert "classifier/kernel" in caplog.text
    assert "tensors of another head are not used: cls.predictions.bias" in caplog.text
    assert_equal(params["layers"], draw(BERT)["layers"])
    again = load_huggingface(saved("bert"), head="classification", num_labels=5, key=jax.random.key(0))[1]
    other = load_huggingface(saved("bert"), head="classification", num_labels=5, key=jax.random.key(1))[1]
    assert_equal(again, params)
    assert (other["classifier"]["kernel"] != params["classifier"]["kernel"]).all()


def test_a_new_head_leaves_the_body_strict(changed):
    directory = changed("bert", drop("layer.1.output.dense"))
    assert "2 missing: bert.encoder.layer.1.output.dense" in error_of(directory, head="classification")


def test_a_head_of_other_classes_is_an_error(tmp_path):
    config = dataclasses.replace(BERT, head="classification", num_labels=3)
    save_huggingface(tmp_path, config, draw(config))
    message = error_of(tmp_path, head="classification", num_labels=5)
    assert "classifier.weight [3, 32] instead of [5, 32]" in message
    assert "set num_labels to theirs" in message


def test_quantised_weights_are_refused(changed):
    def quantise(arrays: Arrays) -> None:
        arrays["transformer.wte.weight"] = arrays["transformer.wte.weight"].astype(np.int8)

    assert "transformer.wte.weight is stored as int8" in error_of(changed("gpt2", quantise))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "gpt22"}, "model_type='gpt22'; did you mean gpt2? supported: bert, roberta"),
        ({"model_type": None}, "model_type=None; supported: bert"),
        ({"architectures": ["GPT2DoubleHeadsModel"]}, "supported for gpt2: GPT2Model, GPT2LMHeadModel"),
        ({"architectures": None}, "or name its head, one of none, lm, "),
        ({"architectures": "GPT2"}, "has architectures=GPT2; supported for gpt2"),
        ({"model_type": ["gpt2"]}, "has model_type=['gpt2']; "),
        ({"vocab_size": None}, "config.json has vocab_size=null"),
        ({"n_layer": "two"}, "config.json: n_layer='two' must be a whole number"),
    ],
)
def test_an_unknown_model_is_one_line(settings, message, changed):
    assert message in error_of(changed("gpt2", **settings))


def test_a_head_that_the_family_lacks_is_one_line(saved):
    assert "head=mlm does not exist in gpt2; it has none, lm" in error_of(saved("gpt2"), head="mlm")


def test_a_directory_that_is_no_model_is_one_line(tmp_path, saved):
    assert "is not a directory" in error_of(tmp_path / "absent")
    assert "holds no config.json" in error_of(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    assert "is not JSON" in error_of(tmp_path)
    (tmp_path / "config.json").write_bytes((saved("gpt2") / "config.json").read_bytes())
    assert "holds no weights" in error_of(tmp_path)
    assert read_huggingface_config(tmp_path).num_layers == 3


def test_gradients_take_the_names_of_their_parameters(saved):
    gradients = jax.tree.map(lambda leaf: -leaf, draw(GPT2))
    expected = {name: -array for name, array in load_file(saved("gpt2") / "model.safetensors").items()}
    assert_equal(dict(stored_tensors(GPT2, gradients)), expected)


def test_token_ids_of_the_config_reach_generation(saved, tmp_path):
    config = dataclasses.replace(GPT2, eos_id=7)
    save_huggingface(tmp_path, config, draw(GPT2))
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    assert settings["eos_token_id"] == 7
    assert "pad_token_id" not in settings


def test_a_file_of_several_heads_serves_each_of_them(tmp_path, caplog):
    """bert-base-uncased has such a file: it names one head and also holds the next-sentence head."""
    config = dataclasses.replace(BERT, head="mlm_nsp")
    save_huggingface(tmp_path, config, draw(config))
    settings = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with caplog.at_level(logging.WARNING, "flaxmill.weights"):
        found, params = load_huggingface(tmp_path)
    assert found.head == "mlm"
    assert_equal(params["mlm"], draw(config)["mlm"])
    assert "cls.seq_relationship.bias, cls.seq_relationship.weight" in caplog.text


def test_only_the_slice_that_is_asked_for_is_read(saved):
    family = FAMILIES["llama"]
    config = read_huggingface_config(saved("llama"))
    arrays = load_file(saved("llama") / "model.safetensors")
    params = flatten(draw(LLAMA))
    for leaf in leaves(config, family.tensors(config)):
        index = tuple(slice(size // 2, size) for size in leaf.shape)
        np.testing.assert_array_equal(read_slice(leaf, arrays, index), params[leaf.path][index])
