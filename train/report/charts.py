"""Which numbers are drawn together and as what, and the same as JSON for the page's script."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flaxmill.train.report.metric_columns import Column, Metrics
from flaxmill.train.report.thinning import thin

HELD_OUT = "eval_"
MAX_CHARTS = 80
MAX_POINTS = 60_000  # in all: a page of 2 MB has room for so many, with half as many means
_MIN_POINTS, _MAX_POINTS_OF_CURVE = 60, 6_000
_DIGITS = 6

_TITLES = {
    "loss": "Loss",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
    "tokens_per_second": "Throughput",
    "step_seconds": "Time of a step",
    "data_seconds": "Waiting for data",
    "mfu": "Model FLOPs utilisation",
    "mfu_causal": "Model FLOPs utilisation, causal",
    "mlm_loss": "Masked-word loss",
    "nsp_loss": "Next-sentence loss",
    "causal_loss": "Next-token loss",
    "mlm_accuracy": "Masked-word accuracy",
    "nsp_accuracy": "Next-sentence accuracy",
    "causal_accuracy": "Next-token accuracy",
}
_UNITS = {"step_seconds": "s", "data_seconds": "s", "tokens_per_second": "tokens/s"}
_SPEED = ("tokens_per_second", "step_seconds", "data_seconds", "mfu", "mfu_causal")
_OPTIMIZER = ("learning_rate", "grad_norm")
SECTIONS = ("Loss", "Scores", "Optimizer", "Speed", "Sources", "More")


class Chart(NamedTuple):
    """A metric, in training and on held-out data."""

    name: str
    title: str
    unit: str
    section: str


def choose_charts(runs: Iterable[Metrics]) -> list[Chart]:
    """A chart for each name that any run has, a held-out value in the chart of its training value."""
    names = dict.fromkeys(
        name.removeprefix(HELD_OUT)
        for metrics in runs
        for name, column in metrics.columns.items()
        if len(column.steps)
    )
    charts = [Chart(name, _title(name), _unit(name), _section(name)) for name in names]
    order = (*_OPTIMIZER[::-1], *_SPEED)
    known = {name: number for number, name in enumerate(order)}
    return sorted(charts, key=lambda chart: (SECTIONS.index(chart.section), known.get(chart.name, 0)))


def charts_as_json(charts: Sequence[Chart], names: Sequence[str], runs: Sequence[Metrics]) -> dict[str, Any]:
    """What the script draws: the runs' names and events, and the curves of each chart. Steps are written as
    differences, which are short."""
    drawn = charts[:MAX_CHARTS]
    curves = [(chart, *found) for chart in drawn for found in _curves(chart, runs)]
    max_points = MAX_POINTS // max(len(curves), 1)
    max_points = min(max(max_points, _MIN_POINTS), _MAX_POINTS_OF_CURVE)
    by_name: dict[str, list[dict[str, Any]]] = {chart.name: [] for chart in drawn}
    for chart, run, is_held_out, column in curves:
        by_name[chart.name].append({"run": run, "heldOut": is_held_out} | _curve_as_json(column, max_points))
    return {
        "runs": [
            {"name": name, "events": [list(event) for event in metrics.events]}
            for name, metrics in zip(names, runs, strict=True)
        ],
        "charts": [
            {"name": chart.name, "title": chart.title, "unit": chart.unit, "curves": by_name[chart.name]}
            for chart in drawn
        ],
    }


def _curves(chart: Chart, runs: Sequence[Metrics]) -> Iterable[tuple[int, bool, Column]]:
    for number, metrics in enumerate(runs):
        for is_held_out, name in ((False, chart.name), (True, HELD_OUT + chart.name)):
            column = metrics.columns.get(name)
            if column is not None and len(column.steps):
                yield number, is_held_out, column


def _curve_as_json(column: Column, max_points: int) -> dict[str, Any]:
    thinned = thin(column.steps, column.values, max_points)
    curve: dict[str, Any] = {"steps": _differences(thinned.steps), "values": _short(thinned.values)}
    if thinned.mean_steps is not None and thinned.means is not None:
        curve |= {"meanSteps": _differences(thinned.mean_steps), "means": _short(thinned.means)}
    return curve


def _differences(steps: np.ndarray) -> list[int]:
    return np.diff(steps, prepend=0).tolist()


def _short(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else float(f"{value:.{_DIGITS}g}") for value in values.tolist()]


def _title(name: str) -> str:
    metric, slash, source = name.partition("/")
    title = _TITLES.get(metric) or metric.replace("_", " ").capitalize()
    return f"{title}: {source}" if slash else title


def _unit(name: str) -> str:
    """Shares are drawn in percent."""
    metric = name.partition("/")[0]
    if metric.endswith("accuracy") or metric.startswith("mfu"):
        return "%"
    return _UNITS.get(metric, "")


_SCORES: Mapping[str, None] = dict.fromkeys(
    ("f1", "f1_macro", "f1_micro", "matthews", "pearson", "spearman", "exact_match", "perplexity")
)


def _section(name: str) -> str:
    if "/" in name:
        return "Sources"
    if name.endswith("loss"):
        return "Loss"
    if name.endswith("accuracy") or name in _SCORES:
        return "Scores"
    if name in _OPTIMIZER:
        return "Optimizer"
    return "Speed" if name in _SPEED else "More"
