"""The report: one HTML page with everything inside, which loads nothing."""

import base64
import hashlib
import importlib.metadata
import importlib.resources
import time
from collections.abc import Iterable, Sequence

from flaxmill.train.report.charts import MAX_CHARTS, SECTIONS, Chart, charts_as_json, choose_charts
from flaxmill.train.report.fragments import Html, element, joined, script_json
from flaxmill.train.report.run_files import RunFiles
from flaxmill.train.report.sections import configs, confusions, data, events, notes, runs_table, samples

SCRIPTS = ("curves.js", "chart.js", "controls.js")
STYLE = "page.css"
_FOLDED = ("Sources", "More")

_CONTROLS = """
<form id="controls" hidden aria-label="How the curves are drawn">
<label>Smoothing <input type="range" id="smoothing" min="0" max="6" step="1" value="0"></label>
<output id="smoothed" for="smoothing"></output>
<label><input type="checkbox" id="logarithmic"> Logarithmic</label>
<label>Steps <input type="number" id="from" min="0" aria-label="First step"></label>
<label>to <input type="number" id="to" min="0" aria-label="Last step"></label>
<button type="button" id="all-steps">All steps</button>
</form>"""


def make_page(runs: Sequence[RunFiles]) -> str:
    """The page of these runs, which have different names."""
    metrics = [run.metrics for run in runs]
    charts = choose_charts(metrics)
    drawn = charts_as_json(charts, [run.name for run in runs], metrics)
    title = ", ".join(run.name for run in runs)
    parts = _parts(runs, charts)
    body = [
        element("header", element("h1", title), _made(len(runs)), _links(parts)),
        element("main", notes(runs), *(_section(name, part) for name, part in parts)),
        element("script", script_json(drawn), type="application/json", id="drawn"),
    ]
    return _document(title, joined(body))


def _document(title: str, body: Html) -> str:
    """Its policy lets exactly its own style and script in, whatever a run's texts hold."""
    style, script = _read(STYLE), "\n".join(map(_read, SCRIPTS))
    script = f'(() => {{\n"use strict";\n{script}}})();\n'
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        element("title", title),
        f"<style>{style}</style>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n'
        + "\n".join(head)
        + f"\n</head>\n<body>\n{body}\n<script>{script}</script>\n</body>\n</html>\n"
    )


def _read(name: str) -> str:
    return importlib.resources.files("flaxmill.train.report").joinpath(name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _made(num_runs: int) -> Html:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime())
    what = "1 run" if num_runs == 1 else f"{num_runs} runs"
    return element(
        "p", f"{what}, as of {when}; flaxmill {importlib.metadata.version('flaxmill')}", class_="made"
    )


def _links(parts: Iterable[tuple[str, Html]]) -> Html:
    return element(
        "nav", *(element("a", name, href=f"#{_id(name)}") for name, _ in parts), aria_label="Sections"
    )


def _parts(runs: Sequence[RunFiles], charts: Sequence[Chart]) -> list[tuple[str, Html]]:
    parts: list[tuple[str, Html | None]] = [("Runs", joined([runs_table(runs), _controls(charts)]))]
    parts += _chart_parts(charts[:MAX_CHARTS])
    if more := charts[MAX_CHARTS:]:
        names = ", ".join(chart.name for chart in more[:MAX_CHARTS])
        parts.append(("Not drawn", element("p", f"{len(more):,} more metrics: {names}", class_="note")))
    parts += [
        ("Skipped steps and rollbacks", events(runs)),
        ("Config", configs(runs)),
        ("Samples", samples(runs)),
        ("Confusion matrix", confusions(runs)),
        ("Data", data(runs)),
    ]
    return [(name, part) for name, part in parts if part is not None]


def _controls(charts: Sequence[Chart]) -> Html:
    if not charts:
        return element("p", "No metrics are written yet: there is nothing to draw.", class_="note")
    needs_script = element("noscript", element("p", "The curves need JavaScript.", class_="note"))
    return joined([Html(_CONTROLS), element("p", id="problem", role="alert", hidden=True), needs_script])


def _chart_parts(charts: Sequence[Chart]) -> list[tuple[str, Html]]:
    parts = []
    for section in SECTIONS:
        frames = [_frame(number, chart) for number, chart in enumerate(charts) if chart.section == section]
        if not frames:
            continue
        drawn = element("div", *frames, class_="charts")
        if section in _FOLDED:
            drawn = element("details", element("summary", f"{len(frames)} charts"), drawn)
        parts.append((section, drawn))
    return parts


def _frame(number: int, chart: Chart) -> Html:
    """The place of a chart; the script draws into it."""
    unit = element("span", f" in {chart.unit}", class_="unit") if chart.unit else Html("")
    caption = element("figcaption", element("strong", chart.title), unit, element("code", chart.name))
    is_first = chart.name == "loss"
    return element("figure", caption, class_=f"chart{' first' if is_first else ''}", data_chart=str(number))


def _section(name: str, part: Html) -> Html:
    return element("section", element("h2", name, id=_id(name)), part)


def _id(name: str) -> str:
    return name.lower().replace(" ", "-")
