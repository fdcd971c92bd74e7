import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import tokenizers
import torch
from safetensors.numpy import load_file
from tokenizers import Regex, models, pre_tokenizers

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.tokenization import Tokenizer
from flaxmill.model.huggingface.directory import load_huggingface
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.caches import cache_directory
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.inference.run_evaluation import evaluate_run
from flaxmill.train.input_pipeline import make_batches
from flaxmill.train.loop import train
from flaxmill.train.optimizer.optimizers import OptimizerConfig
from flaxmill.train.parity.small_models import make_reference
from flaxmill.train.run.directory import check_run_directory, read_config
from flaxmill.train.run.exporting import export_run
from flaxmill.train.run.importing import import_run
from flaxmill.train.run.restoring import load_params

pytestmark = pytest.mark.slow  # it compiles many models

KEPT = {
    "tokenizer_config.json": '{"tokenizer_class": "PreTrainedTokenizerFast", "note": "as it came"}',
    "special_tokens_map.json": "{}",
    "generation_config.json": '{"max_new_tokens": 7}',
}


def write_tokenizer(directory: Path, specials: tuple[str, ...]) -> None:
    """A tokenizer of single characters with the 101 ids of the small models."""
    pieces = [*specials, *map(chr, range(32, 127))][:101]
    tokenizer = tokenizers.Tokenizer(
        models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token=specials[0])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.add_special_tokens(list(specials))
    tokenizer.enable_truncation(40)  # it must be given back as it came
    tokenizer.save(str(directory / "tokenizer.json"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> SimpleNamespace:
    """A directory with a small GPT-2 and its tokenizer, and the torch model."""
    directory = tmp_path_factory.mktemp("downloads") / "small-gpt2"
    model = make_reference("gpt2", directory)
    write_tokenizer(directory, ("<unk>", "<|endoftext|>"))
    for name, text in KEPT.items():
        (directory / name).write_text(text)
    return SimpleNamespace(directory=directory, model=model)


def one_line(result: tuple[Any, str, str]) -> str:
    code, out, err = result
    assert (code, out, err.count("\n")) == (2, "", 1), result
    return err


def assert_same_tensors(directory: Path, other: Path) -> None:
    tensors, others = (load_file(place / "model.safetensors") for place in (directory, other))
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, others[name], err_msg=name)


def test_import_makes_a_run_that_says_how_to_go_on(gpt2, flaxmill, tmp_path):
    run = tmp_path / "run"
    code, out, err = flaxmill("import", gpt2.directory, run)
    assert (code, err) == (0, "")
    assert f"imported {gpt2.directory}: gpt2 with head lm" in out
    assert f"flaxmill train --run-dir {run} --data.files" in out
    experiment = read_config(run)
    assert (experiment.name, experiment.objective) == ("small-gpt2", "causal")
    assert (experiment.data.sequence_length, experiment.model.num_layers) == (40, 3)
    assert Tokenizer.load(run / "tokenizer.json").end_id == 1
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["0"]


def test_an_exported_import_is_what_was_imported(gpt2, tmp_path):
    import_run(gpt2.directory, tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "again")
    assert_same_tensors(tmp_path / "again", gpt2.directory)
    for name in (*KEPT, "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (gpt2.directory / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "objective"),
    [("bert", "mlm"), ("bert_pretraining", "mlm_nsp"), ("gpt_neo", "causal"), ("modernbert", "mlm")],
)
def test_import_and_export_change_no_tensor_of_any_objective(tmp_path, name, objective):
    make_reference(name, tmp_path / "model")
    write_tokenizer(tmp_path / "model", ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"))
    experiment = import_run(tmp_path / "model", tmp_path / "run", mesh_config=MeshConfig(data=1, fsdp=2))
    assert experiment.objective == objective
    export_run(tmp_path / "run", tmp_path / "again")
    assert_same_tensors(tmp_path / "again", tmp_path / "model")


def test_a_tokenizer_may_be_given_beside_the_model(gpt2, tmp_path):
    make_reference("gpt2", tmp_path / "model")
    import_run(tmp_path / "model", tmp_path / "run", tokenizer=gpt2.directory / "tokenizer.json")
    export_run(tmp_path / "run", tmp_path / "again")
    written = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    assert written.token_to_id("<|endoftext|>") == 1


def test_a_body_is_imported_with_the_head_that_is_asked_for(tmp_path):
    make_reference("gpt2_encoder", tmp_path / "model")
    write_tokenizer(tmp_path / "model", ("<unk>", "<|endoftext|>"))
    assert import_run(tmp_path / "model", tmp_path / "run", head="lm").objective == "causal"


def on_corpus(run: Path, corpus: Path, **changes: Any) -> Experiment:
    """The run's experiment on the tests' text, without dropout, in two steps."""
    experiment = read_config(run)
    return replace(
        experiment,
        steps=2,
        batch_size=4,
        log_every=1,
        eval_batches=1,
        model=replace(experiment.model, dropout=0.0, attention_dropout=0.0),
        data=replace(experiment.data, files=(str(corpus),)),
        mesh=MeshConfig(data=1),
        checkpoint=CheckpointConfig(every=1),
        **changes,
    )


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow
def test_training_starts_from_the_imported_weights(gpt2, corpus, tmp_path):
    run = tmp_path / "run"
    import_run(gpt2.directory, run)
    experiment = on_corpus(run, corpus, optimizer=OptimizerConfig(name="adafactor", learning_rate=1e-3))
    train(experiment)
    dataset = prepare(experiment.data, "causal", cache=cache_directory(), log=lambda line: None)
    batch = make_batches(dataset, "train", experiment).rows(0, 0, 4)
    assert (batch["documents"] == 1).all(), "torch reads rows of one document here"
    with torch.no_grad():
        logits = gpt2.model(torch.tensor(batch["tokens"]).long()).logits
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(batch["targets"]).long().flatten()
    )
    # float32 sums of 160 tokens' losses of about 5
    np.testing.assert_allclose(losses(run)[0], expected.item(), rtol=2e-6)
    assert evaluate_run(run)["step"] == 2


@pytest.mark.slow
def test_an_imported_run_that_stops_continues_bit_for_bit(gpt2, corpus, tmp_path, stop_after):
    runs = tmp_path / "whole", tmp_path / "stopped"
    for run in runs:
        import_run(gpt2.directory, run, tokenizer=gpt2.directory / "tokenizer.json")
    shared = replace(read_config(runs[0]).data, tokenizer=str(gpt2.directory / "tokenizer.json"))
    whole, stopped = (
        replace(on_corpus(run, corpus), data=replace(shared, files=(str(corpus),))) for run in runs
    )
    train(whole)
    assert train(stopped, stop=stop_after(1)).preempted
    with pytest.raises(
        ValueError, match=r"trained with another config: optimizer.learning_rate 5e-05 -> 1.0"
    ):
        train(replace(stopped, optimizer=OptimizerConfig(learning_rate=1.0)))
    train(stopped)
    assert losses(runs[0]) == losses(runs[1])


def test_before_the_first_step_all_but_the_model_may_change(gpt2, tmp_path):
    run = tmp_path / "run"
    import_run(gpt2.directory, run)
    experiment = read_config(run)
    check_run_directory(
        replace(
            experiment,
            steps=7,
            batch_size=2,
            seed=3,
            mesh=MeshConfig(fsdp=2),
            data=DataConfig(sequence_length=16),
            optimizer=OptimizerConfig(name="lion"),
            model=replace(experiment.model, dropout=0.0, dtype="bfloat16", remat="full", scan_layers=False),
        )
    )
    other = replace(experiment, model=replace(experiment.model, num_layers=2, activation="gelu"))
    with pytest.raises(ValueError, match="holds imported weights of another model") as refused:
        check_run_directory(other)
    assert "model.num_layers 3 -> 2, model.activation gelu_tanh -> gelu; leave its model.*" in str(
        refused.value
    )
    (run / "metrics.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(ValueError, match="was trained with another config: seed 0 -> 3"):
        check_run_directory(replace(experiment, seed=3))


def test_the_imported_weights_are_the_checkpoint_of_step_0(gpt2, tmp_path):
    experiment = import_run(gpt2.directory, tmp_path / "run")
    mesh = make_mesh(MeshConfig(data=1, fsdp=2))
    params, metadata, step = load_params(tmp_path / "run", experiment, mesh)
    expected = load_huggingface(gpt2.directory)[1]
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert (step, metadata) == (0, {"imported": str(gpt2.directory)})


@pytest.mark.parametrize(
    ("name", "said", "refusal"),
    [
        ("gpt2", "--data.tokenizer FILE", "tokenizer.json"),
        ("bert_classification", "objective classification", "suffix '.txt' names no format"),
        ("t5", "objective seq2seq", "suffix '.txt' names no format"),
    ],
)
def test_a_model_that_cannot_be_trained_on_this_can_be_kept_and_given_back(
    flaxmill, corpus, tmp_path, name, said, refusal
):
    make_reference(name, tmp_path / "model")
    code, out, _ = flaxmill("import", tmp_path / "model", tmp_path / "run")
    assert code == 0
    assert said in out
    assert not (tmp_path / "run" / "tokenizer.json").exists()
    code, _, error = flaxmill("export", tmp_path / "run", tmp_path / "again")
    assert code == 0, error
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in ("model", "again"))
    assert before.keys() == after.keys()
    for tensor in before:
        np.testing.assert_array_equal(before[tensor], after[tensor])
    refused = flaxmill("train", "--run-dir", tmp_path / "run", "--data.files", corpus, "--steps", 1)
    assert refusal in one_line(refused)


def test_a_model_without_a_head_is_refused_with_the_two_ways_on_and_leaves_nothing(flaxmill, tmp_path):
    make_reference("bert_encoder", tmp_path / "model")
    refused = one_line(flaxmill("import", tmp_path / "model", tmp_path / "run"))
    assert "has no head that an objective trains; give one with --head mlm" in refused
    assert f"flaxmill train classify --init-from {tmp_path / 'model'} --data.files FILES" in refused
    assert not (tmp_path / "run").exists()
    assert flaxmill("import", tmp_path / "model", tmp_path / "run", "--head", "mlm")[0] == 0


def mistake(place: Path, gpt2: Any, name: str) -> list[Any]:
    """The arguments of an import that is refused."""
    model = place / "model"
    if name == "nowhere":
        return [place / "nowhere", place / "run"]
    if name == "family":
        model.mkdir()
        (model / "config.json").write_text('{"model_type": "mamba"}')
        (model / "model.safetensors").write_bytes((gpt2.directory / "model.safetensors").read_bytes())
    elif name == "used":
        return [gpt2.directory, gpt2.directory]
    elif name == "file":
        (place / "file").write_text("")
        return [gpt2.directory, place / "file" / "below"]
    elif name == "vocabulary":
        (place / "tokenizer.json").write_text(Tokenizer.load(gpt2.directory / "tokenizer.json").to_json())
        text = json.loads((place / "tokenizer.json").read_text())
        text["model"]["vocab"]["extra"] = 250
        (place / "tokenizer.json").write_text(json.dumps(text))
        return [gpt2.directory, place / "run", "--tokenizer", place / "tokenizer.json"]
    else:
        make_reference(name, model)
        write_tokenizer(model, ("<unk>", "<|endoftext|>"))
    return [model, place / "run"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nowhere", "nowhere is not a directory; give one with a model's config.json"),
        ("family", "model_type='mamba'; "),
        ("used", "is not empty; give the import a new directory"),
        ("file", "below cannot be written"),
        ("vocabulary", "model.vocab_size=101 is smaller than the tokenizer's 251 ids"),
        ("bert", "needs the token [MASK], which the tokenizer lacks"),
    ],
)
def test_mistakes_are_one_line(gpt2, flaxmill, tmp_path, name, text):
    arguments = mistake(tmp_path, gpt2, name)
    assert text in one_line(flaxmill("import", *arguments))
    assert not (tmp_path / "run").exists()


def test_both_places_come_first(flaxmill):
    text = "HF_DIR and RUN come first, 1 given: flaxmill import HF_DIR RUN"
    assert text in one_line(flaxmill("import", "gpt2", "--head", "lm"))
    assert "none given" in one_line(flaxmill("import"))
    code, out, _ = flaxmill("import", "--help")
    assert code == 0
    assert "--tokenizer" in out
