"""What a report reads of a run: its files as they are, checked, without JAX."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxmill.train.best import is_better
from flaxmill.train.experiment import Experiment
from flaxmill.train.report.metric_columns import Metrics, read_columns
from flaxmill.train.report.predictions import Predictions, read_predictions
from flaxmill.train.run.data_card import read_data_card
from flaxmill.train.run.directory import METRICS_FILE, read_config
from flaxmill.train.run.samples import read_samples
from flaxmill.train.run.summary import Summary, summarize


class Best(NamedTuple):
    """The best evaluation of a run."""

    metric: str
    step: int
    value: float


class RunFiles(NamedTuple):
    """A run, as far as a report shows it."""

    name: str
    """Short, and different from the names of the other runs."""
    summary: Summary
    experiment: Experiment
    metrics: Metrics
    best: Best | None
    cards: dict[str, dict[str, Any]] | None
    samples: dict[int, str]
    predictions: Predictions | None


def read_runs(directories: Sequence[Path]) -> list[RunFiles]:
    """The runs, in the order given.

    Raises:
      ValueError: a directory that is not a run or is given twice, or a file of it that is damaged.
    """
    real = [os.path.realpath(directory) for directory in directories]
    for number, directory in enumerate(directories):
        if real[number] in real[:number]:
            raise ValueError(f"{directory} is given twice; give each run once")
    names = short_names(real)
    return [read_run(directory, name) for directory, name in zip(directories, names, strict=True)]


def read_run(directory: Path, name: str) -> RunFiles:
    """Raises ValueError where it is not a run, or a file of it is damaged."""
    experiment = read_config(directory)
    summary = summarize(directory)
    if summary.problem is not None:
        raise ValueError(summary.problem)
    path = directory / METRICS_FILE
    # An import has no metrics, nor has a run before its first row.
    metrics = read_columns(path) if os.path.lexists(path) else Metrics({}, [], 0, 0, None)
    return RunFiles(
        name,
        summary,
        experiment,
        metrics,
        find_best(experiment, metrics),
        read_data_card(directory),
        read_samples(directory),
        read_predictions(directory, experiment),
    )


def find_best(experiment: Experiment, metrics: Metrics) -> Best | None:
    """The best evaluation by the metric that the run follows, or else by the held-out loss."""
    metric = experiment.best.metric or "eval_loss"
    column = metrics.columns.get(metric)
    best = None
    for step, value in zip(column.steps.tolist(), column.values.tolist(), strict=True) if column else ():
        if is_better(metric, value, None if best is None else best.value):
            best = Best(metric, step, value)
    return best


def short_names(paths: Sequence[str]) -> list[str]:
    """The last part of each path, with as many parts before it as tell the paths apart."""
    split = [path.strip(os.sep).split(os.sep) for path in paths]
    for num_parts in range(1, max(map(len, split)) + 1):
        names = ["/".join(parts[-num_parts:]) for parts in split]
        if len(set(names)) == len(names):
            return names
    raise AssertionError(f"paths are given twice: {paths}")
