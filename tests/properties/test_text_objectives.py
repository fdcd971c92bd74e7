"""Span corruption and prefix LM are training: they resume bit for bit, run on every mesh, and evaluate."""

import dataclasses

import pytest
from launching import values_of
from small_runs import MESH_TOLERANCE, assert_resumes, assert_same_on_a_mesh, in_directory

from flaxmill.train.checkpoint.config import CheckpointConfig
from flaxmill.train.loop import train

pytestmark = pytest.mark.slow

OBJECTIVES = {
    "span_corruption": {"encoder_layers": 2, "positions": "relative"},
    "prefix_lm": {},
}


@pytest.fixture(params=OBJECTIVES)
def experiment(request, make_experiment):
    model = OBJECTIVES[request.param]
    return make_experiment(request.param, model=model, checkpoint=CheckpointConfig(every=4))


def test_a_run_that_stops_on_the_way_ends_as_one_that_does_not(experiment, tmp_path, stop_after):
    straight = assert_resumes(experiment, tmp_path, stop_after)
    assert straight.metrics.keys() >= {"eval_loss", f"eval_{experiment.objective}_accuracy"}


def test_losses_are_those_of_one_device_on_any_mesh(experiment, tmp_path):
    assert_same_on_a_mesh(experiment, tmp_path)


def test_microbatches_change_nothing(experiment, tmp_path):
    experiment = dataclasses.replace(
        experiment, steps=2, model=dataclasses.replace(experiment.model, dropout=0.0)
    )
    train(in_directory(experiment, tmp_path / "one"))
    train(in_directory(experiment, tmp_path / "four", accumulate=4))
    found, expected = values_of(tmp_path / "four"), values_of(tmp_path / "one")
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=MESH_TOLERANCE)


@pytest.mark.parametrize(
    ("objective", "model", "message"),
    [
        ("span_corruption", {}, "makes no encoder-decoder, which objective=span_corruption needs"),
        (
            "prefix_lm",
            {"encoder_layers": 2},
            "makes an encoder-decoder, which objective=prefix_lm cannot train",
        ),
        ("prefix_lm", {"positions": "relative"}, "model.positions=relative cannot serve objective=prefix_lm"),
        ("causal", {"bidirectional_prefix": True}, "contradicts objective=causal, which has no prefix"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(make_experiment, objective, model, message):
    with pytest.raises(ValueError, match=message):
        train(make_experiment(objective, model=model))
