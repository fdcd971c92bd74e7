"""Numbers of an experiment that could not be what was meant are refused by name."""

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.train.checkpoint_config import CheckpointConfig
from flaxmill.train.experiment import Experiment


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing=1.0 must be in \[0, 1\)"),
        ({"label_smoothing": 0.1, "objective": "question_answering"}, "spreads a class over others, which"),
        (
            {"label_smoothing": 0.1, "objective": "classification", "data": DataConfig(label_type="number")},
            "data.label_type=number has not; leave it 0",
        ),
    ],
)
def test_label_smoothing_is_refused_where_there_are_no_classes(fields, message):
    with pytest.raises(ValueError, match=message):
        Experiment(**fields)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_that_are_not_finite_are_refused_by_name(value):
    with pytest.raises(ValueError, match=r"z_loss=(inf|nan) "):
        Experiment(z_loss=value)
    with pytest.raises(ValueError, match=r"checkpoint.every_minutes=(inf|nan) "):
        Experiment(checkpoint=CheckpointConfig(every_minutes=value))
