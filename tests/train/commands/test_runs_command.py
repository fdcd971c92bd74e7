"""`flaxmill runs`: a line for each run, or JSON."""

import json
import subprocess
import sys

import pytest

from flaxmill.train.commands.runs_command import run as runs_command
from flaxmill.train.experiment import Experiment
from flaxmill.train.run.directory import write_config
from flaxmill.train.run.lock import lock_run_directory


def make_run(directory, *rows, steps=2000):
    directory.mkdir(parents=True)
    write_config(directory, Experiment(steps=steps), None)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


@pytest.fixture
def runs(tmp_path):
    step = {"step": 1499, "loss": 2.34567, "tokens_per_second": 12345.6}
    make_run(tmp_path / "long", step, {"step": 1500, "eval_loss": 2.5})
    make_run(tmp_path / "fresh")
    make_run(tmp_path / "seeds" / "seed-0", step, steps=1500)
    broken = make_run(tmp_path / "broken", step)
    (broken / "config.json").write_text("{")
    return tmp_path


def test_a_table_has_a_line_for_each_run(runs, capsys):
    with lock_run_directory(runs / "long"):
        runs_command([str(runs)])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "objective", "step", "loss", "held", "out", "tokens/s", "age", "state"]
    cells = [line.split() for line in lines]
    assert cells[0][:6] == ["broken", "-", "-", "-", "-", "-"]
    assert cells[0][-1] == "damaged"
    assert "config.json is not a config of this version" in lines[1]
    assert cells[2][:6] == ["fresh", "causal", "0/2,000", "-", "-", "-"]
    assert cells[3] == ["long", "causal", "1,500/2,000", "2.346", "2.500", "12.3k", "0s", "running"]
    assert cells[4][:5] == ["seeds/seed-0", "causal", "1,500/1,500", "2.346", "-"]
    assert cells[4][-1] == "finished"


def test_json_has_what_the_table_rounds(runs, capsys):
    runs_command([str(runs), "--json"])
    found = json.loads(capsys.readouterr().out)["runs"]
    by_name = {one["directory"].removeprefix(f"{runs}/"): one for one in found}
    assert list(by_name) == ["broken", "fresh", "long", "seeds/seed-0"]
    assert by_name["long"]["loss"] == 2.34567
    assert by_name["long"]["evaluation"] == {"step": 1500, "eval_loss": 2.5}
    assert by_name["broken"]["problem"]


def test_a_run_itself_is_listed(runs, capsys):
    runs_command([str(runs / "long")])
    assert capsys.readouterr().out.splitlines()[1].startswith(f"{runs / 'long'}  causal")


def test_no_runs_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs_command([])
    assert capsys.readouterr().out == "runs holds no run yet; `flaxmill train` makes one in runs\n"


@pytest.mark.parametrize("arguments", [["/nowhere"], [__file__], ["--jsn"], ["a", "b"]])
def test_a_mistake_is_one_line(arguments):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        runs_command(arguments)


def test_runs_without_a_step_are_listed_without_jax(tmp_path):
    make_run(tmp_path / "fresh")
    program = (
        "import sys; from flaxmill.train.commands import runs_command; runs_command.run([sys.argv[1]])\n"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, stdout=subprocess.DEVNULL)
