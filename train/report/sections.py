"""The parts of the page that need no script: runs, events, configs, samples, confused labels, data."""

import json
from collections.abc import Sequence
from typing import Any

from flaxmill.data.card_page import draw_cards
from flaxmill.train.metrics.progress import short_number
from flaxmill.train.report.config_differences import compare_configs, whole_config
from flaxmill.train.report.fragments import Html, element, joined, table
from flaxmill.train.report.predictions import Predictions
from flaxmill.train.report.run_files import RunFiles
from flaxmill.train.run.data_card import CARD_FILE
from flaxmill.train.run.summary import evaluation_loss

UNKNOWN = "-"
MAX_EVENTS_LISTED = 200
_SHADES = 9


def runs_table(runs: Sequence[RunFiles]) -> Html:
    """A line for each run; of several each has a switch for its curves."""
    head = ("run", "objective", "state", "step", "loss", "held out", "best", "tokens/s", "tokens")
    return table(head, [_run_cells(number, run, len(runs)) for number, run in enumerate(runs)], class_="runs")


def _run_cells(number: int, run: RunFiles, num_runs: int) -> tuple[str, ...]:
    summary, best = run.summary, run.best
    state = "no rows yet" if not run.metrics.num_rows else summary.state
    return (
        _run_name(number, run, num_runs),
        summary.objective or UNKNOWN,
        element("span", state, class_=f"state {summary.state}"),
        UNKNOWN if summary.step is None else f"{summary.step:,} of {summary.steps:,}",
        _number(summary.loss),
        _number(evaluation_loss(summary)),
        UNKNOWN if best is None else f"{best.metric} {best.value:.4f} at step {best.step:,}",
        UNKNOWN if summary.tokens_per_second is None else short_number(summary.tokens_per_second),
        UNKNOWN if summary.num_tokens is None else short_number(summary.num_tokens),
    )


def _run_name(number: int, run: RunFiles, num_runs: int) -> Html:
    line = element("span", class_="swatch", data_swatch=str(number))
    name = element("span", run.name, title=str(run.summary.directory))
    if num_runs == 1:
        return element("span", line, name, class_="run")
    switch = Html(f'<input type="checkbox" checked data-run="{number}">')
    return element("label", switch, line, name, class_="run")


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4f}"


def notes(runs: Sequence[RunFiles]) -> Html:
    """What could not be read, said before anything else is shown."""
    said = []
    for run in runs:
        if run.metrics.num_unread:
            lines = "line is" if run.metrics.num_unread == 1 else "lines are"
            said.append(
                f"{run.name}: {run.metrics.num_unread:,} {lines} passed over in metrics.jsonl, the first is "
                f"line {run.metrics.first_unread:,}"
            )
    return joined(element("p", line, class_="note") for line in said)


def events(runs: Sequence[RunFiles]) -> Html | None:
    """Skipped steps and rollbacks; None where there were none."""
    found = [
        (run.name, f"{event.step:,}", event.text)
        for run in runs
        for event in run.metrics.events[: MAX_EVENTS_LISTED // len(runs)]
    ]
    if not found:
        return None
    num_all = sum(len(run.metrics.events) for run in runs)
    more = num_all - len(found)
    rest = [element("p", f"and {more:,} more, marked in the charts", class_="note")] if more else []
    return joined([table(("run", "step", "what happened"), found), *rest])


def configs(runs: Sequence[RunFiles]) -> Html:
    """What differs, and each whole config, folded."""
    compared = compare_configs([run.name for run in runs], [run.experiment for run in runs])
    rows = [(field, *values) for field, values in compared.values.items()]
    shown = (
        table(("field", *compared.columns), rows, class_="fields")
        if rows
        else element("p", "Nothing.", class_="note")
    )
    folded = (
        _folded(
            f"Whole config of {run.name}",
            table(("field", "value"), whole_config(run.experiment).items(), class_="fields"),
        )
        for run in runs
    )
    return joined([element("h3", compared.title), shown, *folded])


def samples(runs: Sequence[RunFiles]) -> Html:
    """The newest sample of each run, its earlier ones folded, and the first examples that were evaluated."""
    pieces: list[Html] = []
    for run in runs:
        if not run.samples and run.predictions is None:
            continue
        pieces.append(element("h3", run.name))
        newest_first = sorted(run.samples.items(), reverse=True)
        for number, (step, sample) in enumerate(newest_first):
            shown = element("pre", sample, tabindex="0")
            title = f"After step {step:,}"
            pieces.append(_folded(title, shown) if number else joined([element("p", title), shown]))
        if run.predictions is not None and run.predictions.examples:
            pieces.append(_examples(run.predictions))
    if pieces:
        return joined(pieces)
    said = "None. A run writes its sample when training ends, and what it predicts for examples by "
    return element("p", said, element("code", "flaxmill eval RUN"), ".", class_="note")


def _examples(predictions: Predictions) -> Html:
    names = list(dict.fromkeys(name for example in predictions.examples for name in example))
    ordered = [*(name for name in names if name != "prediction"), "prediction"]
    rows = [[_cell(example.get(name)) for name in ordered] for example in predictions.examples]
    number, step = predictions.num_examples, predictions.step
    said = f"The first of {number:,} held-out examples, predicted after step {step:,}"
    return joined([element("p", said), table(ordered, rows)])


def _cell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def confusions(runs: Sequence[RunFiles]) -> Html | None:
    """Which label was taken for which; None where no run chooses among labels."""
    pieces: list[Html] = []
    for run in runs:
        if not run.experiment.data.labels:
            continue
        pieces.append(element("h3", run.name))
        if run.predictions is not None and run.predictions.labels:
            pieces.append(_confusion(run.predictions))
        else:
            command = element("code", f"flaxmill eval {run.summary.directory}")
            pieces.append(
                element(
                    "p", "There are no predictions with its labels; ", command, " writes them.", class_="note"
                )
            )
    return joined(pieces) if pieces else None


def _confusion(predictions: Predictions) -> Html:
    """Rows are the true labels, columns the predicted ones; shades are shares of a row."""
    labels, counts = predictions.labels, predictions.counts
    head = element(
        "tr", element("th", "label", scope="col"), *(element("th", one, scope="col") for one in labels)
    )
    rows = []
    for wanted in labels:
        total = max(sum(counts[wanted, one] for one in labels), 1)
        cells = (
            element(
                "td",
                f"{counts[wanted, one]:,}",
                class_=f"shade{round(counts[wanted, one] / total * _SHADES)}",
            )
            for one in labels
        )
        rows.append(element("tr", element("th", wanted, scope="row"), *cells))
    right = sum(counts[one, one] for one in labels)
    said = (
        f"After step {predictions.step:,}; rows are the labels, columns what the model took them for. "
        f"{right:,} of {sum(counts.values()):,} are right."
    )
    drawn = element("table", element("thead", head), element("tbody", *rows), class_="confusion")
    return joined(
        [
            element("p", said),
            element("div", drawn, class_="wide", tabindex="0", role="region", aria_label="Confusion matrix"),
        ]
    )


def data(runs: Sequence[RunFiles]) -> Html:
    """The card of each dataset, once for all runs that were trained on it."""
    by_card: dict[str, list[RunFiles]] = {}
    for run in runs:
        by_card.setdefault(json.dumps(run.cards), []).append(run)
    pieces = []
    for sharing in by_card.values():
        names, cards = ", ".join(run.name for run in sharing), sharing[0].cards
        if cards is None:
            pieces.append(
                element("p", f"{names}: no {CARD_FILE}, which runs of this version keep", class_="note")
            )
            continue
        drawn = element("div", _cards(sharing[0], cards), class_="card")
        pieces.append(_folded(names, drawn, is_open=len(by_card) == 1))
    return joined(pieces)


def _cards(run: RunFiles, cards: dict[str, dict[str, Any]]) -> Html:
    try:
        return Html("\n".join(draw_cards(cards, level=4)))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        path = run.summary.directory / CARD_FILE
        raise ValueError(
            f"{path} is damaged: {error!r:.100}; delete it: it only describes the data"
        ) from None


def _folded(title: str, inside: Html, is_open: bool = False) -> Html:
    return element("details", element("summary", title), inside, open=is_open)
