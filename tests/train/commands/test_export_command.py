import errno
import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.vocabulary.training import make_tokenizer
from flaxmill.model import abstract_params, apply
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.checkpoint.checkpoints import Checkpoints
from flaxmill.train.experiment import Experiment
from flaxmill.train.loop import train
from flaxmill.train.resolution import resolve
from flaxmill.train.run.directory import read_config, write_config
from flaxmill.train.run.restoring import load_params

pytestmark = pytest.mark.slow  # it compiles many models

BERT_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"##{c}" for c in "abcdefghij")]


@pytest.fixture(autouse=True)
def _no_progress_bars():
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)


def tokenizer_of(experiment: Experiment, place: Path) -> Tokenizer:
    if experiment.data.tokenizer == "wordpiece":
        (place / "vocab.txt").write_text("\n".join(BERT_PIECES))
        return Tokenizer.load(place / "vocab.txt")
    data: Any = replace(experiment.data, tokenizer="bytes")
    nothing: Any = None
    return make_tokenizer(data, nothing, print)


def write_run(experiment: Experiment, steps: tuple[int, ...] = (3, 8)) -> tuple[Path, Experiment, Any]:
    """Write a run as training would leave it, with weights far from their start; returns the last step's."""
    assert experiment.run_dir is not None
    run = Path(experiment.run_dir)
    run.mkdir()
    tokenizer = tokenizer_of(experiment, run)
    experiment = resolve(experiment, tokenizer)
    write_config(run, experiment, tokenizer)
    params: Any = {}
    with Checkpoints(run / "checkpoints", experiment.checkpoint) as checkpoints:
        for step in steps:
            random = np.random.default_rng(step)
            params = jax.tree.map(
                lambda p, random=random: jnp.asarray(0.1 * random.normal(size=p.shape), jnp.float32),
                abstract_params(experiment.model),
            )
            checkpoints.save(step, {"params": params, "step": jnp.int32(step)}, {})
    return run, experiment, params


def loaded(directory: Path, name: str, caplog) -> tuple[Any, Any]:
    """Model and tokenizer as transformers loads them; it must not warn."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        transformers.utils.logging.enable_propagation()
        model = getattr(transformers, name).from_pretrained(directory).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        transformers.utils.logging.disable_propagation()
    assert [record.getMessage() for record in caplog.records] == []
    return model, tokenizer


CLASSES = {
    "causal": "AutoModelForCausalLM",
    "mlm": "AutoModelForMaskedLM",
    "mlm_nsp": "AutoModelForPreTraining",
}


def assert_same_logits(experiment: Experiment, params: Any, directory: Path, caplog: Any) -> None:
    """Check that transformers loads the directory's model and tokenizer, and computes what `params` do."""
    model, tokenizer = loaded(directory, CLASSES[experiment.objective], caplog)
    is_padded = tokenizer.pad_token is not None
    inputs = tokenizer(
        ["abc jab", "fade"] if is_padded else ["abc jab"], padding=is_padded, return_tensors="pt"
    )
    names = {"input_ids": "tokens", "attention_mask": "mask", "token_type_ids": "segments"}
    batch = {names[name]: jnp.asarray(value.numpy(), jnp.int32) for name, value in inputs.items()}
    ours = jax.jit(lambda params, batch: apply(experiment.model, params, batch))(params, batch)
    with torch.no_grad():
        theirs = model(**inputs)
    real = np.asarray(batch["mask"]) == 1
    # float32 sums of 32 products, through two layers; logits are about 2
    compared = {"logits": theirs.logits if "logits" in theirs else theirs.prediction_logits}
    np.testing.assert_allclose(ours["logits"][real], compared["logits"].numpy()[real], rtol=0, atol=1e-5)
    if experiment.objective == "mlm_nsp":
        nsp = theirs.seq_relationship_logits.numpy()
        np.testing.assert_allclose(ours["nsp_logits"], nsp, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("objective", CLASSES)
def test_transformers_loads_the_export_and_gives_the_same_logits(
    make_experiment, flaxmill, tmp_path, caplog, objective
):
    run, experiment, params = write_run(make_experiment(objective))
    code, out, _ = flaxmill("export", run, tmp_path / "hf")
    assert code == 0
    assert f"transformers.{CLASSES[objective]}.from_pretrained('{tmp_path / 'hf'}')" in out
    assert "of step 8" in out
    assert_same_logits(experiment, params, tmp_path / "hf", caplog)


def test_the_tokenizer_gives_the_ids_and_rows_of_training(make_experiment, flaxmill, tmp_path, caplog):
    run, _, _ = write_run(make_experiment("mlm_nsp"))
    flaxmill("export", run, tmp_path / "hf")
    _, tokenizer = loaded(tmp_path / "hf", "AutoModelForPreTraining", caplog)
    ours = Tokenizer.load(run / "tokenizer.json")
    first, second = ours.encode("abc jab"), ours.encode("fade")
    encoded = tokenizer("abc jab", "fade")
    assert encoded["input_ids"] == [ours.cls_id, *first, ours.sep_id, *second, ours.sep_id]
    assert encoded["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (ours.pad_id, ours.mask_id)


def test_ids_that_the_model_leaves_open_are_the_tokenizers(make_experiment, flaxmill, tmp_path):
    run, experiment, _ = write_run(make_experiment("causal"))
    flaxmill("export", run, tmp_path / "hf")
    values = json.loads((tmp_path / "hf" / "config.json").read_text())
    end_id = Tokenizer.load(run / "tokenizer.json").end_id
    assert experiment.model.eos_id is None
    assert (values["eos_token_id"], values["bos_token_id"], values["pad_token_id"]) == (end_id, end_id, None)


def test_step_chooses_a_checkpoint(make_experiment, flaxmill, tmp_path):
    run, _, _ = write_run(make_experiment("causal"))
    for step in (3, 8):
        assert f"of step {step}, " in flaxmill("export", run, tmp_path / str(step), "--step", step)[1]
    weights = [(tmp_path / step / "model.safetensors").read_bytes() for step in ("3", "8")]
    assert weights[0] != weights[1]


def test_mistakes_are_one_line(make_experiment, flaxmill, tmp_path):
    run, _, _ = write_run(make_experiment("causal"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    for arguments, text in [
        ([tmp_path / "nowhere", tmp_path / "hf"], "nowhere is not a run directory"),
        ([tmp_path / "empty", tmp_path / "hf"], "config.json cannot be read"),
        ([run, tmp_path / "hf", "--step", "5"], "has no checkpoint of step 5; it has 3, 8"),
        ([run, tmp_path / "full"], "full is not empty; add --overwrite to replace the model in it"),
        ([run, run], "is a run directory; give another one for the export"),
        ([run, run, "--overwrite"], "is a run directory; give another one for the export"),
        ([run, tmp_path / "full" / "notes.txt"], "notes.txt cannot be written"),
        ([run, tmp_path / "full" / "notes.txt" / "below"], "below cannot be written"),
        ([run], "RUN and HF_DIR come first, 1 given: flaxmill export RUN HF_DIR"),
    ]:
        code, out, err = flaxmill("export", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert text in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full", "run"]


def test_a_disk_that_fills_up_is_no_mistake_and_leaves_no_directory(
    make_experiment, flaxmill, tmp_path, monkeypatch
):
    run, _, _ = write_run(make_experiment("causal"), steps=(3,))

    def refuse(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("flaxmill.model.huggingface.writing.os.fsync", refuse)
    code, out, err = flaxmill("export", run, tmp_path / "hf")
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert "hf cannot be written (No space left on device); make room there, or give another" in err
    assert not (tmp_path / "hf").exists()


def test_a_model_that_no_family_holds_is_refused_with_the_nearest(make_experiment, flaxmill, tmp_path):
    run, _, _ = write_run(make_experiment("causal", model={"positions": "sinusoidal"}))
    code, _, err = flaxmill("export", run, tmp_path / "hf")
    assert (code, err.count("\n")) == (2, 1)
    assert "no Hugging Face family holds this model; the nearest is" in err
    assert not (tmp_path / "hf").exists()


def test_overwrite_replaces_the_model_and_leaves_other_files(make_experiment, flaxmill, tmp_path):
    run, _, _ = write_run(make_experiment("causal"))
    flaxmill("export", run, tmp_path / "hf", "--step", "3")
    before = (tmp_path / "hf" / "model.safetensors").read_bytes()
    (tmp_path / "hf" / "README.md").write_text("mine")
    assert flaxmill("export", run, tmp_path / "hf", "--overwrite")[0] == 0
    assert (tmp_path / "hf" / "model.safetensors").read_bytes() != before
    assert (tmp_path / "hf" / "README.md").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["causal", "mlm_nsp"])
def test_a_trained_run_computes_the_same_in_transformers(
    make_experiment, flaxmill, tmp_path, caplog, objective
):
    result = train(make_experiment(objective, steps=2))
    assert flaxmill("export", result.directory, tmp_path / "hf")[0] == 0
    experiment = read_config(result.directory)
    params, _, _ = load_params(result.directory, experiment, make_mesh(MeshConfig(data=1)))
    assert_same_logits(experiment, params, tmp_path / "hf", caplog)
