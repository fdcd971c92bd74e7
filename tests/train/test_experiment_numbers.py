"""Numbers of an experiment that could not be what was meant are refused by name."""

import re
from typing import Any

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.train.checkpoint.config import CheckpointConfig
from flaxmill.train.experiment import Experiment, from_dict, to_dict


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing=1.0 must be in \[0, 1\)"),
        ({"label_smoothing": 0.1, "objective": "question_answering"}, "spreads a class over others, but"),
        (
            {"label_smoothing": 0.1, "objective": "classification", "data": DataConfig(label_type="number")},
            "data.label_type=number does not choose one class; leave it 0",
        ),
    ],
)
def test_label_smoothing_is_refused_where_there_are_no_classes(fields, message):
    with pytest.raises(ValueError, match=message):
        Experiment(**fields)


@pytest.mark.parametrize("field", ["prompt", "data.separator"])
def test_texts_that_are_no_unicode_are_refused_by_name(field):
    values: dict[str, Any] = to_dict(Experiment())
    (values["data"] if field == "data.separator" else values)[field.rpartition(".")[2]] = "a\udcff"
    with pytest.raises(ValueError, match=rf"{field}='a.udcff' is not UTF-8; give it as UTF-8"):
        from_dict(values)


@pytest.mark.parametrize(
    "fields", [{"norm_epsilon": 1e300}, {"initializer_std": 3.5e38}, {"norm_epsilon": float("inf")}]
)
def test_numbers_that_float32_has_not_are_refused_by_name(fields):
    ((name, value),) = fields.items()
    with pytest.raises(ValueError, match=re.escape(f"model.{name}={value} is beyond float32")):
        ModelConfig(**fields)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_that_are_not_finite_are_refused_by_name(value):
    with pytest.raises(ValueError, match=r"z_loss=(inf|nan) "):
        Experiment(z_loss=value)
    with pytest.raises(ValueError, match=r"checkpoint.every_minutes=(inf|nan) "):
        Experiment(checkpoint=CheckpointConfig(every_minutes=value))
