"""Vectors are the same on any mesh, resume bit for bit, and leave as sentence-transformers reads them."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from launching import step_rows
from small_runs import MESH_TOLERANCE, assert_resumes, in_directory
from small_text_models import save_model

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.corpus import read_examples
from flaxmill.model.config import ModelConfig
from flaxmill.model.huggingface.sentence_modules import write_sentence_modules
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train import Model
from flaxmill.train.checkpoint.config import CheckpointConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.inference.run_evaluation import evaluate_run
from flaxmill.train.loop import train
from flaxmill.train.named_configs import load_config
from flaxmill.train.optimizer.config import OptimizerConfig
from flaxmill.train.run.directory import read_config
from flaxmill.train.run.exporting import export_run
from flaxmill.train.run.source import adopt_source

pytestmark = pytest.mark.slow

WORDS = [f"{first}{second}" for first in "bdgklmnp" for second in ("at", "ore")]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Two words, and the same ones in capitals the other way round."""
    rows = [(a, b) for a in WORDS for b in WORDS if a != b]
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    path.write_text("text,pair\n" + "".join(f"{a} {b},{b.upper()} {a.upper()}\n" for a, b in rows))
    return path


@pytest.fixture
def experiment(pairs, make_experiment):
    data = DataConfig(
        files=(str(pairs),), pair_column="pair", tokenizer="wordpiece", vocab_size=300, sequence_length=32
    )
    model = dataclasses.replace(load_config("embed_tiny").model, num_layers=1, embed_dim=32, dropout=0.1)
    made = make_experiment("contrastive", data=data, checkpoint=CheckpointConfig(every=4))
    return dataclasses.replace(made, model=model)


def test_a_run_that_stops_on_the_way_ends_as_one_that_does_not(experiment, tmp_path, stop_after):
    straight = assert_resumes(experiment, tmp_path, stop_after)
    assert straight.metrics.keys() >= {"eval_loss", "eval_accuracy"}


@pytest.mark.parametrize(
    "mesh",
    [MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=2, context=2), MeshConfig(data=4, fsdp=2)],
    ids=["all", "context", "rows"],
)
def test_a_text_is_compared_with_those_of_all_devices(experiment, mesh, tmp_path):
    # Cosines / 0.05 are rounded by 1e-6, which is much of the loss that is left after some steps.
    experiment = dataclasses.replace(
        experiment, temperature=0.5, model=dataclasses.replace(experiment.model, attention_dropout=0.0)
    )
    one = train(in_directory(experiment, tmp_path / "one"))
    many = train(in_directory(experiment, tmp_path / "many", mesh=mesh))
    for found, expected in zip(step_rows(many.directory), step_rows(one.directory), strict=True):
        for key in ("loss", "grad_norm"):
            assert found[key] == pytest.approx(expected[key], rel=MESH_TOLERANCE)
    assert many.metrics["eval_loss"] == pytest.approx(one.metrics["eval_loss"], rel=MESH_TOLERANCE)


def test_texts_that_belong_together_come_near_and_leave_as_vectors(experiment, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    learning = dataclasses.replace(
        experiment, steps=60, eval_batches=None, optimizer=OptimizerConfig(learning_rate=5e-3)
    )
    run = train(in_directory(learning, tmp_path / "run")).directory
    rows = step_rows(run)
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    measured = evaluate_run(run)
    assert measured["recall_at_1"] > 0.3
    assert measured["mean_reciprocal_rank"] >= measured["recall_at_1"]
    export_run(run, tmp_path / "exported")
    texts = ["bat bore", "DAT KORE", " ".join(WORDS * 4)]
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "exported"), device="cpu")
    vectors = Model.load(run).embed(texts)
    np.testing.assert_allclose(theirs.encode(texts), vectors, atol=1e-5)
    np.testing.assert_allclose(Model.load(tmp_path / "exported").embed(texts), vectors, atol=1e-5)


@pytest.fixture
def pooled_by_cls(experiment, tmp_path):
    """A BERT whose files say that its first token is the vector, and an experiment that starts from it."""
    source = tmp_path / "source"
    save_model(source, "bert")
    write_sentence_modules(source, 32, 64, "cls")
    return source, dataclasses.replace(experiment, model=ModelConfig(), init_from=str(source), steps=2)


def test_texts_are_pooled_as_the_source_says(pooled_by_cls, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    source, starting = pooled_by_cls
    run = train(in_directory(starting, tmp_path / "run")).directory
    assert read_config(run).pooling == "cls"
    shutil.rmtree(source)
    assert train(in_directory(starting, run)).step == 2, "a run that has begun needs no source"
    export_run(run, tmp_path / "exported")
    texts = ["bat bore", "DAT KORE"]
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "exported"), device="cpu")
    vectors = Model.load(run).embed(texts)
    np.testing.assert_allclose(theirs.encode(texts), vectors, atol=1e-5)
    assert np.abs(Model.load(run).embed(texts, pooling="mean") - vectors).max() > 0.01
    assert evaluate_run(run)["similarity"] == pytest.approx(measured_similarity(run), abs=1e-5)


def measured_similarity(run):
    """The mean cosine of the held-out pairs, from the vectors of `Model`."""
    model = Model.load(run)
    examples = list(read_examples(read_config(run).data, "contrastive", "valid"))
    first, second = (
        model.embed([example.texts[number] for example in examples], normalize=True) for number in (0, 1)
    )
    return float((first * second).sum(-1).mean())


def test_a_pooling_that_is_named_is_taken_and_several_are_refused(pooled_by_cls, tmp_path):
    source, starting = pooled_by_cls
    assert adopt_source(dataclasses.replace(starting, pooling="max")).pooling == "max"
    file = source / "1_Pooling" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pooling_mode_max_tokens": True}))
    with pytest.raises(ValueError, match=r"joins 2 poolings of a text \(cls, max\), .* --pooling cls"):
        adopt_source(starting)
    with pytest.raises(
        ValueError, match=r"^pooling=cls makes a vector of a text, and objective=causal learns"
    ):
        Experiment(pooling="cls")


def test_microbatches_are_refused_as_they_would_compare_less():
    with pytest.raises(ValueError, match=r"^accumulate=2 would change what objective=contrastive learns"):
        Experiment(objective="contrastive", accumulate=2)
