"""What `flaxmill eval` wrote of held-out examples: which label was taken for which, and the first of them."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxmill.train.experiment import Experiment
from flaxmill.train.metrics.metrics_file import read_metrics

PREDICTIONS_FILE = "predictions.jsonl"
MAX_LABELS = 40
MAX_EXAMPLES = 8
_BESIDES = {"probabilities", "id", "split"}


class Predictions(NamedTuple):
    """The predictions of one checkpoint."""

    path: Path
    step: int
    num_examples: int
    labels: tuple[str, ...]
    """The labels of `counts`; none where the examples have no single label, or too many are in use."""
    counts: Counter[tuple[str, str]]
    """(wanted, predicted) -> how many examples or, for tagged text, words."""
    examples: list[dict[str, Any]]
    """The columns and the prediction of the first ones."""


def read_predictions(run: Path, experiment: Experiment) -> Predictions | None:
    """The predictions of the newest checkpoint that was evaluated; None where there are none."""
    found = _newest(run)
    if found is None:
        return None
    step, path = found
    column = _label_column(experiment)
    counts: Counter[tuple[str, str]] = Counter()
    examples, number = [], 0
    for row in read_metrics(path):
        if "prediction" not in row:
            continue
        number += 1
        if column is not None:
            counts.update(_pairs(row.get(column), row["prediction"]))
        if len(examples) < MAX_EXAMPLES:
            examples.append({name: value for name, value in row.items() if name not in _BESIDES})
    labels = _labels(experiment.data.labels, counts)
    return Predictions(path, step, number, labels, counts, examples)


def _newest(run: Path) -> tuple[int, Path] | None:
    """The step and the file; evaluations on other data are in folders further below, and do not count."""
    named = ((re.fullmatch(r"eval-([0-9]{1,10})", path.name), path) for path in run.glob("eval-*"))
    found = [(int(match[1]), path / PREDICTIONS_FILE) for match, path in named if match]
    return max((one for one in found if one[1].is_file()), default=None)


def _label_column(experiment: Experiment) -> str | None:
    """The column of the labels, if an example, or each of its words, has exactly one."""
    data = experiment.data
    return data.label_column if data.labels and data.label_type == "category" else None


def _pairs(wanted: Any, predicted: Any) -> list[tuple[str, str]]:
    """The pair of labels, or a pair for each tagged word that was not cut off."""
    if isinstance(wanted, str) and isinstance(predicted, str):
        return [(wanted, predicted)]
    if isinstance(wanted, list) and isinstance(predicted, list) and len(wanted) == len(predicted):
        pairs = zip(wanted, predicted, strict=True)
        return [(one, other) for one, other in pairs if isinstance(one, str) and isinstance(other, str)]
    return []


def _labels(known: Sequence[str], counts: Counter[tuple[str, str]]) -> tuple[str, ...]:
    """The known labels, or those in use if they are too many to show."""
    used = {label for pair in counts for label in pair}
    if not used or used - set(known):
        return ()
    labels = known if len(known) <= MAX_LABELS else [label for label in known if label in used]
    return tuple(labels) if len(labels) <= MAX_LABELS else ()
