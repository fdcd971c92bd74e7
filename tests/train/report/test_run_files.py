"""What is read of a run: all of its files, each checked; names that tell runs apart."""

import pytest
from reported_runs import rows_of, write_run

from flaxmill.train.best import BestConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.report.run_files import read_run, read_runs, short_names
from flaxmill.train.run.data_card import write_data_card
from flaxmill.train.run.samples import write_sample


def test_a_run_is_read_whole(tmp_path):
    run = write_run(tmp_path / "run", rows_of(40))
    write_sample(run, 40, "The end.")
    write_data_card(run, {"": {"source": "x"}})
    (files,) = read_runs([run])
    assert (files.name, files.summary.step, files.metrics.num_rows) == ("run", 40, 44)
    assert (files.samples, files.cards, files.predictions) == ({40: "The end."}, {"": {"source": "x"}}, None)
    assert files.best is not None
    assert (files.best.metric, files.best.step) == ("eval_loss", 40)


def test_the_best_is_by_the_metric_that_the_run_follows(tmp_path):
    rows = [
        {"step": step, "eval_loss": 1.0, "eval_accuracy": value}
        for step, value in ((1, 0.5), (2, 0.75), (3, None))
    ]
    experiment = Experiment(best=BestConfig(metric="eval_accuracy"), eval_every=1)
    best = read_run(write_run(tmp_path / "run", rows, experiment), "run").best
    assert best == ("eval_accuracy", 2, 0.75)


def test_a_run_without_metrics_is_empty(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    files = read_run(run, "run")
    assert (files.metrics.columns, files.metrics.num_rows, files.best, files.cards) == ({}, 0, None, None)


def test_names_are_as_short_as_they_can_be():
    assert short_names(["/runs/a", "/runs/b"]) == ["a", "b"]
    assert short_names(["/x/seed-0", "/y/seed-0", "/y/seed-1"]) == ["x/seed-0", "y/seed-0", "y/seed-1"]
    assert short_names(["/run", "/deep/run"]) == ["run", "deep/run"]


def test_a_run_is_given_once_under_whatever_path(tmp_path):
    run = write_run(tmp_path / "run")
    (tmp_path / "link").symlink_to(run)
    for other in (run, tmp_path / "link", run / ".." / "run"):
        with pytest.raises(ValueError, match=r"is given twice; give each run once$"):
            read_runs([run, other])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("metrics.jsonl", "x\n"),
        ("data_card.json", "[]"),
        ("data_card.json", "{"),
        ("data_card.json", '{"": 1}'),
    ],
)
def test_a_damaged_file_is_named_in_one_line(name, content, tmp_path):
    run = write_run(tmp_path / "run", rows_of(3))
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=rf"^[^\n]*{name}[^\n]*$"):
        read_runs([run])
