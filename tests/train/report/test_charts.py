"""Charts: a held-out value is drawn with its training value, and many rows become few points."""

import json
import math

import pytest
from reported_runs import rows_of

from flaxmill.train.report.charts import MAX_CHARTS, MAX_POINTS, charts_as_json, choose_charts
from flaxmill.train.report.metric_columns import read_columns


def metrics_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_columns(path)


@pytest.fixture
def short(tmp_path):
    return metrics_of(tmp_path / "short.jsonl", rows_of(40))


def test_charts_come_by_section_and_held_out_values_have_none_of_their_own(short):
    charts = choose_charts([short])
    assert [(chart.section, chart.name) for chart in charts] == [
        ("Loss", "loss"),
        ("Scores", "causal_accuracy"),
        ("Optimizer", "grad_norm"),
        ("Optimizer", "learning_rate"),
        ("Speed", "tokens_per_second"),
        ("Speed", "step_seconds"),
        ("Speed", "data_seconds"),
        ("Speed", "mfu"),
        ("Speed", "mfu_causal"),
    ]
    assert [chart.unit for chart in charts] == ["", "%", "", "", "tokens/s", "s", "s", "%", "%"]


def test_parts_of_a_loss_sources_and_what_is_unknown_have_their_sections(tmp_path):
    row = {"step": 0, "loss": 1.0, "mlm_loss": 0.5, "loss/web": 1.0, "eval_f1": 0.5, "own_number": 3}
    charts = {chart.name: chart for chart in choose_charts([metrics_of(tmp_path / "rows", [row])])}
    sections = {name: chart.section for name, chart in charts.items()}
    assert sections == {
        "loss": "Loss",
        "mlm_loss": "Loss",
        "f1": "Scores",
        "loss/web": "Sources",
        "own_number": "More",
    }
    assert charts["mlm_loss"].title == "Masked-word loss"
    assert charts["loss/web"].title == "Loss: web"


def test_curves_say_whose_they_are_and_give_back_their_numbers(short):
    drawn = charts_as_json(choose_charts([short, short]), ["a", "b"], [short, short])
    assert [run["name"] for run in drawn["runs"]] == ["a", "b"]
    assert [event[:2] for event in drawn["runs"][1]["events"]] == [["skipped", 30], ["skipped", 31]]
    loss = drawn["charts"][0]
    assert [(curve["run"], curve["heldOut"]) for curve in loss["curves"]] == [
        (0, False),
        (0, True),
        (1, False),
        (1, True),
    ]
    training, held_out = loss["curves"][:2]
    assert training["steps"] == [0] + [1] * 39
    assert held_out["steps"] == [10, 10, 10, 10]
    assert [number for number, value in enumerate(training["values"]) if value is None] == [30, 31]
    stored = short.columns["loss"].values.tolist()
    known = [pair for pair in zip(training["values"], stored, strict=True) if not math.isnan(pair[1])]
    assert all(shown == pytest.approx(value, rel=1e-5) for shown, value in known)
    assert "means" not in training


def test_many_rows_of_many_runs_become_few_points(tmp_path):
    long = metrics_of(tmp_path / "long.jsonl", rows_of(20_000, eval_every=100))
    for num_runs in (1, 12):
        runs = [long] * num_runs
        drawn = charts_as_json(choose_charts(runs), [str(n) for n in range(num_runs)], runs)
        curves = [curve for chart in drawn["charts"] for curve in chart["curves"]]
        assert sum(len(curve["values"]) for curve in curves) <= MAX_POINTS
        training = drawn["charts"][0]["curves"][0]
        assert 20.0 in training["values"]
        assert len(training["means"]) == len(training["meanSteps"]) >= len(training["values"]) // 3
        assert sum(training["steps"]) == 19_999


def test_charts_are_at_most_so_many(tmp_path):
    names = {f"metric_{number}": 1.0 for number in range(3 * MAX_CHARTS)}
    metrics = metrics_of(tmp_path / "rows", [{"step": 0} | names])
    charts = choose_charts([metrics])
    assert len(charts) == 3 * MAX_CHARTS
    assert len(charts_as_json(charts, ["a"], [metrics])["charts"]) == MAX_CHARTS
