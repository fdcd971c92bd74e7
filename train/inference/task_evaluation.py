"""Scores of a fine-tuned run on labelled examples, and its predictions written beside the inputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxmill.data.batches import Batches
from flaxmill.data.config import DataConfig
from flaxmill.data.examples.corpus import read_examples
from flaxmill.data.examples.example import Example
from flaxmill.data.json_text import dump_json
from flaxmill.data.objectives import examples_of, find_function
from flaxmill.train.experiment import Experiment
from flaxmill.train.inference.predictions import Model, Prediction, predict
from flaxmill.train.metrics.task_scores import (
    answer_scores,
    classification_scores,
    find_library,
    multi_label_scores,
    regression_scores,
    tag_scores,
    text_scores,
)

Examples = Sequence[Example]
Predictions = Sequence[Prediction]
Scores = dict[str, float]

PREDICTIONS_FILE, CONFUSION_FILE = "predictions.jsonl", "confusion_matrix.png"
MAX_LABELS_DRAWN = 40  # more cannot be read in a picture


def evaluate_examples(model: Model, batches: Batches, folder: Path) -> dict[str, Any]:
    """num_examples, the path of the predictions, and the objective's scores where the examples have labels.

    `folder` gets predictions.jsonl, with each example's columns and `prediction`, and for categories a
    picture that shows which label is taken for which.
    """
    experiment = model.experiment
    examples = list(read_examples(experiment.data, experiment.objective, "valid"))
    predictions = predict(model, batches, examples)
    folder.mkdir(parents=True, exist_ok=True)
    _write_predictions(folder / PREDICTIONS_FILE, examples, predictions)
    measured: dict[str, Any] = {"num_examples": len(examples), "predictions": str(folder / PREDICTIONS_FILE)}
    if is_labelled(experiment.data, experiment.objective):
        measure = experiment.definition.measure
        assert measure is not None, f"{experiment.objective} has no examples"
        measured |= find_function(measure)(experiment, examples, predictions)
        if all(isinstance(example.wanted, str) for example in examples):
            draw_confusion(folder / CONFUSION_FILE, examples, predictions, experiment.data.labels)
    return measured


def is_labelled(data: DataConfig, objective: str) -> bool:
    """Whether the examples come with their answers."""
    column = examples_of(objective).answer_column
    return column is None or getattr(data, column) is not None


def measure_classes(experiment: Experiment, examples: Examples, predictions: Predictions) -> Scores:
    """The scores of labels, of sets of labels, or of numbers."""
    wanted, predicted = _values(examples, predictions)
    match experiment.data.label_type:
        case "number":
            return regression_scores(wanted, predicted)
        case "multi_label":
            return multi_label_scores(wanted, predicted, experiment.data.labels)
        case "category":
            return classification_scores(wanted, predicted, experiment.data.labels)


def measure_tags(experiment: Experiment, examples: Examples, predictions: Predictions) -> Scores:
    """The scores of tagged words."""
    return tag_scores(*_values(examples, predictions), experiment.data.labels)


def measure_answers(experiment: Experiment, examples: Examples, predictions: Predictions) -> Scores:
    """SQuAD's scores."""
    wanted, predicted = _values(examples, predictions)
    return answer_scores([[answer.text for answer in answers] for answers in wanted], predicted)


def measure_texts(experiment: Experiment, examples: Examples, predictions: Predictions) -> Scores:
    """The scores of written texts."""
    return text_scores(*_values(examples, predictions))


def measure_preferences(experiment: Experiment, examples: Examples, predictions: Predictions) -> Scores:
    """How often the chosen answer has the higher reward, and both answers' mean rewards, by TRL's names."""
    names = ("rewards/chosen", "rewards/rejected")
    means = {name: float(np.mean([prediction.details[name] for prediction in predictions])) for name in names}
    right = [prediction.value == "chosen" for prediction in predictions]
    margin = means["rewards/chosen"] - means["rewards/rejected"]
    return means | {"rewards/margins": margin, "rewards/accuracies": float(np.mean(right))}


def measure_retrieval(experiment: Experiment, examples: Examples, predictions: Predictions) -> Scores:
    """How often a first text is nearest to its own second one among those of all examples, and the mean of
    1 / rank."""
    ranks = np.array([prediction.details["rank"] for prediction in predictions])
    similarity = float(np.mean([prediction.details["similarity"] for prediction in predictions]))
    recall = {f"recall_at_{most}": float(np.mean(ranks <= most)) for most in (1, 10)}
    return recall | {"mean_reciprocal_rank": float(np.mean(1 / ranks)), "similarity": similarity}


def _values(examples: Examples, predictions: Predictions) -> tuple[list[Any], list[Any]]:
    """The wanted answers, and the predicted ones."""
    return [example.wanted for example in examples], [prediction.value for prediction in predictions]


def _write_predictions(path: Path, examples: Sequence[Example], predictions: Sequence[Prediction]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for example, prediction in zip(examples, predictions, strict=True):
            row = {**example.columns, "prediction": prediction.value, **prediction.details}
            file.write(dump_json(row) + "\n")


def draw_confusion(
    path: Path, examples: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]
) -> None:
    """Draws how many examples of each label (rows) are taken for each label (columns)."""
    if not 0 < len(labels) <= MAX_LABELS_DRAWN:
        return
    metrics, figures = find_library("sklearn.metrics"), find_library("matplotlib.figure")
    if metrics is None or figures is None:
        return
    size = 3 + 0.6 * len(labels)
    axes = figures.Figure(figsize=(size + 1, size), layout="constrained").subplots()
    counts = metrics.confusion_matrix(
        [example.wanted for example in examples], [p.value for p in predictions], labels=list(labels)
    )
    display = metrics.ConfusionMatrixDisplay(counts, display_labels=list(labels))
    display.plot(ax=axes, cmap="Blues", xticks_rotation=45, colorbar=False, values_format="d")
    axes.set(xlabel="predicted", ylabel="label")
    axes.figure.savefig(path, dpi=120)
