"""Predictions: counted by label, from the newest evaluation of the run's own data."""

import json

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.report.predictions import MAX_EXAMPLES, read_predictions


def experiment_of(*labels, objective="classification", **data):
    return Experiment(objective=objective, data=DataConfig(labels=labels, **data))


@pytest.fixture
def write(tmp_path):
    def write(step, *rows, folder=""):
        path = tmp_path / f"eval-{step}" / folder / "predictions.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return tmp_path

    return write


def test_labels_are_counted_and_the_first_examples_kept(write):
    rows = [
        {"id": "1", "text": f"text {n}", "label": "ab"[n % 2], "prediction": "a", "probabilities": {}}
        for n in range(20)
    ]
    found = read_predictions(write(7, *rows, '{"torn'), experiment_of("a", "b"))
    assert found is not None
    assert (found.step, found.num_examples, found.labels) == (7, 20, ("a", "b"))
    assert found.counts == {("a", "a"): 10, ("b", "a"): 10}
    assert found.examples[0] == {"text": "text 0", "label": "a", "prediction": "a"}
    assert len(found.examples) == MAX_EXAMPLES


def test_tagged_words_are_counted_except_those_that_were_cut_off(write):
    row = {"words": ["x", "y", "z"], "tags": ["O", "B", "O"], "prediction": ["O", "O", None]}
    found = read_predictions(
        write(1, row), experiment_of("O", "B", objective="token_classification", label_column="tags")
    )
    assert found is not None
    assert found.counts == {("O", "O"): 1, ("B", "O"): 1}


def test_the_newest_step_counts_and_other_data_does_not(write):
    write(9, {"label": "a", "prediction": "a"})
    write(10, {"label": "a", "prediction": "b"})
    run = write(11, {"label": "a", "prediction": "b"}, folder="other.csv")
    (run / "eval-x").mkdir()
    found = read_predictions(run, experiment_of("a", "b"))
    assert found is not None
    assert found.step == 10


def test_without_predictions_there_are_none(tmp_path):
    assert read_predictions(tmp_path, experiment_of("a", "b")) is None


@pytest.mark.parametrize(
    "row", [{"label": "c"}, {"label": ["a"]}, {"label": 3}, {"other": "a"}, {"label": ["a", "b"]}]
)
def test_unknown_labels_and_changed_rows_make_no_matrix(row, write):
    found = read_predictions(write(1, row | {"prediction": "a"}), experiment_of("a", "b"))
    assert found is not None
    assert found.labels == ()


def test_labels_in_use_are_shown_where_all_are_too_many(write):
    labels = [f"label {n}" for n in range(100)]
    rows = [{"label": labels[n], "prediction": labels[n + 1]} for n in range(5)]
    found = read_predictions(write(1, *rows), experiment_of(*labels))
    assert found is not None
    assert found.labels == tuple(labels[:6])


def test_sets_of_labels_have_no_matrix(write):
    row = {"label": "a|b", "prediction": ["a"]}
    found = read_predictions(write(1, row), experiment_of("a", "b", label_type="multi_label"))
    assert found is not None
    assert (found.labels, found.num_examples) == ((), 1)
