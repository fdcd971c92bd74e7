"""The held-out loss covers every held-out token, however they are batched."""

import json
import math

import jax
import numpy as np
import pytest

from flaxmill.data.preparation.cache import prepare
from flaxmill.model import init_params
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train import train
from flaxmill.train.caches import cache_directory
from flaxmill.train.evaluation import (
    compare_with_counting,
    describe_evaluation,
    evaluate,
    summarize_evaluation,
)
from flaxmill.train.inference.other_data import OtherData
from flaxmill.train.inference.run_evaluation import evaluate_run
from flaxmill.train.input_pipeline import make_batches
from flaxmill.train.metrics.metrics_file import read_metrics
from flaxmill.train.resolution import resolve
from flaxmill.train.step import make_eval_step

pytestmark = pytest.mark.slow


@pytest.fixture
def evaluate_untrained(make_experiment):
    """Metrics of fresh weights on the held-out text, with the number of batches that it has."""

    def run(objective="causal", **changes):
        changes = {"eval_batches": None} | changes
        experiment = make_experiment(objective, model={"num_layers": 1}, **changes)
        dataset = prepare(experiment.data, objective, cache=cache_directory(), log=lambda line: None)
        experiment = resolve(experiment, dataset.tokenizer)
        params = jax.jit(lambda: init_params(experiment.model, jax.random.key(0)))()
        batches = make_batches(dataset, "valid", experiment)
        mesh = make_mesh(experiment.mesh)
        with jax.set_mesh(mesh):
            step = make_eval_step(experiment, mesh, batches.max_predictions)
            return evaluate(step, params, batches, experiment, mesh), batches

    return run


@pytest.mark.parametrize("objective", ["causal", "mlm_nsp"])
def test_the_loss_does_not_depend_on_the_batch_size_though_the_last_batch_is_part_empty(
    evaluate_untrained, objective
):
    one, batches = evaluate_untrained(objective, batch_size=16)
    other, others = evaluate_untrained(objective, batch_size=24)
    assert batches.num_rows == others.num_rows
    assert batches.num_rows % 16 or batches.num_rows % 24
    # The same rows summed in another order: float32 rounding.
    assert other == pytest.approx(one, rel=1e-6)


def test_the_loss_does_not_depend_on_the_mesh(evaluate_untrained):
    one, _ = evaluate_untrained()
    other, _ = evaluate_untrained(mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    assert other == pytest.approx(one, rel=1e-5)


def test_at_most_eval_batches_are_read(evaluate_untrained):
    full, batches = evaluate_untrained()
    assert batches.num_batches > 2
    few, _ = evaluate_untrained(eval_batches=2)
    assert few["eval_loss"] != full["eval_loss"]
    many, _ = evaluate_untrained(eval_batches=10**6)
    assert many == full


def test_every_part_has_its_eval_name(evaluate_untrained):
    metrics, _ = evaluate_untrained("hybrid")
    assert metrics.keys() == {
        "eval_loss",
        "eval_mlm_loss",
        "eval_mlm_accuracy",
        "eval_causal_loss",
        "eval_causal_accuracy",
    }
    half = (metrics["eval_mlm_loss"] + metrics["eval_causal_loss"]) / 2
    assert metrics["eval_loss"] == pytest.approx(half, rel=1e-6)  # half of each batch is causal


STATISTICS = {"num_tokens": 300, "num_bytes": 1200, "unigram_entropy": 5.0, "bigram_entropy": 3.0}


def test_bits_per_byte_follow_from_the_tokens_in_a_byte():
    compared = compare_with_counting({"eval_loss": 4 * math.log(2)}, "causal", STATISTICS)
    assert compared["eval_bits_per_byte"] == pytest.approx(1.0)
    assert compared["eval_unigram_entropy"] == 5.0
    assert compared["eval_bigram_entropy"] == 3.0


def test_bits_per_byte_leave_the_z_loss_out():
    metrics = {"eval_loss": 99.0, "eval_causal_loss": 4 * math.log(2), "eval_z_loss": 1.0}
    assert compare_with_counting(metrics, "causal", STATISTICS)["eval_bits_per_byte"] == pytest.approx(1.0)


def test_an_encoder_has_no_bits_per_byte():
    compared = compare_with_counting({"eval_loss": 3.0}, "mlm_nsp", STATISTICS | {"nsp_majority": 0.6})
    assert "eval_bits_per_byte" not in compared
    assert compared["eval_nsp_majority"] == 0.6


def test_the_summary_sets_every_number_beside_what_counting_reaches():
    metrics = {
        "eval_loss": 5.5,
        "eval_mlm_loss": 4.8,
        "eval_mlm_accuracy": 0.25,
        "eval_nsp_loss": 0.7,
        "eval_nsp_accuracy": 0.625,
        "eval_nsp_majority": 0.5,
        "eval_unigram_entropy": 5.1,
        "eval_bigram_entropy": 3.2,
    }
    text = describe_evaluation(metrics)
    for number in ("4.800", "0.250", "0.625", "0.500", "5.100", "3.200"):
        assert number in text
    assert "bits" not in text
    causal = describe_evaluation({"eval_loss": 2.0, "eval_bits_per_byte": 1.5})
    assert causal == "held-out next-token loss 2.000 nats, 1.500 bits a byte"


def test_an_evaluation_on_the_way_shows_the_value_that_is_followed():
    metrics = {"eval_loss": 0.41, "eval_f1_macro": 0.8125}
    assert summarize_evaluation(metrics, None) == "held-out loss 0.410"
    assert summarize_evaluation(metrics, "eval_loss") == "held-out loss 0.410"
    assert summarize_evaluation(metrics, "eval_f1_macro") == "held-out loss 0.410, f1_macro 0.812"


@pytest.fixture
def finished(make_experiment):
    """The directory of a run and the evaluation at its end."""
    result = train(make_experiment(model={"num_layers": 1}, steps=3))
    return result.directory, result.metrics


def test_a_saved_run_evaluates_to_what_it_said_at_its_end(finished):
    directory, metrics = finished
    same_mesh = MeshConfig(data=1)
    assert evaluate_run(directory, mesh_config=same_mesh) == {"step": 3} | metrics
    last = list(read_metrics(directory / "metrics.jsonl"))[-1]
    assert last["eval_loss"] == metrics["eval_loss"]


def test_a_run_can_be_evaluated_on_another_text(finished, tmp_path):
    directory, metrics = finished
    easy = tmp_path / "easy.txt"
    easy.write_text("the " * 4000)
    found = evaluate_run(directory, OtherData(str(easy), {}))
    assert found["step"] == 3
    assert found["eval_loss"] != metrics["eval_loss"]
    assert found["eval_unigram_entropy"] < 1 < metrics["eval_unigram_entropy"]


def test_a_run_can_be_evaluated_on_another_mesh(finished):
    directory, metrics = finished
    for mesh in (None, MeshConfig(data=1, fsdp=2, tensor=2)):
        evaluated = evaluate_run(directory, mesh_config=mesh)
        assert evaluated["eval_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-5)


def test_a_run_whose_text_has_changed_is_not_evaluated_on_it(finished, corpus):
    directory, _ = finished
    config = json.loads((directory / "config.json").read_text())
    other = corpus.with_name("other.txt")
    other.write_text(corpus.read_text().replace("the", "thy"))
    config["data"]["files"] = [str(other)]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"its text has changed.*on other data with --data FILE"):
        evaluate_run(directory)


def test_a_directory_without_checkpoint_is_named(finished):
    directory, _ = finished
    (directory / "checkpoints").rename(directory / "elsewhere")
    with pytest.raises(ValueError, match=rf"{directory} holds no checkpoint yet"):
        evaluate_run(directory)


def test_a_path_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a run directory"):
        evaluate_run(tmp_path / "nothing")


def test_rows_beyond_the_end_weigh_nothing(evaluate_untrained):
    _, batches = evaluate_untrained()
    last = batches.batch(batches.num_batches - 1)
    real = batches.num_rows - (batches.num_batches - 1) * batches.batch_size
    assert np.all(last["weights"][real:] == 0)
    assert last["weights"][:real].sum() > 0
