"""`flaxmill report`: one file with the page, and one line for a mistake."""

import subprocess
import sys

import pytest
from reported_runs import rows_of, write_run

from flaxmill.train.commands.report_command import run as report_command


@pytest.fixture
def runs(tmp_path):
    return [write_run(tmp_path / name, rows_of(20)) for name in ("one", "two")]


def test_a_page_is_written_and_its_place_and_size_printed(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    report_command([str(run) for run in runs])
    page = tmp_path / "report.html"
    assert capsys.readouterr().out == f"wrote report.html ({page.stat().st_size / 1e6:.2f} MB)\n"
    assert page.read_text().startswith("<!DOCTYPE html>\n")
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path != page}
    assert after == before


def test_a_page_that_is_there_is_replaced_whole(runs, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("of old")
    report_command([str(runs[0]), "--output", str(page)])
    assert "<title>one</title>" in page.read_text()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["page.html"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "no run given"),
        (["--output", "x.html"], "no run given"),
        (["nowhere"], "nowhere is not a run directory"),
        (["one/config.json"], "one/config.json is not a run directory"),
        (["one", "two", "one"], "one is given twice"),
        (["one", "--output", "absent/x.html"], "output=absent/x.html is in absent, which is no directory"),
        (["one", "--output", "two"], "output=two is a directory"),
        (["one", "--otput", "x.html"], "did you mean --output"),
        (["one", "--output", "a.html", "two"], "unexpected 'two'"),
        (["s3://bucket/run"], "RUN=s3://bucket/run is remote"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(arguments, complaint, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=complaint) as refused:
        report_command(arguments)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_run_ends_with_one_line_and_exit_code_2(runs, flaxmill, tmp_path):
    metrics = runs[1] / "metrics.jsonl"
    metrics.write_text("nothing\n")
    code, out, err = flaxmill("report", *runs, "--output", tmp_path / "page.html")
    assert (code, out) == (2, "")
    assert f"{metrics} is damaged: line 1 is no JSON object with a step" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_a_run_without_rows_is_reported_as_empty(tmp_path):
    report_command([str(write_run(tmp_path / "fresh")), "--output", str(tmp_path / "page.html")])
    assert "no rows yet" in (tmp_path / "page.html").read_text()


def test_a_report_is_made_without_jax(runs, tmp_path):
    program = (
        "import sys; from flaxmill.train.commands import report_command; report_command.run(sys.argv[1:])\n"
        "assert 'jax' not in sys.modules"
    )
    arguments = [str(runs[0]), "--output", str(tmp_path / "page.html")]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, stdout=subprocess.DEVNULL)
