"""A dry run says what the run would be, makes nothing, and refuses what the run would refuse."""

import dataclasses
from pathlib import Path

import pytest

from flaxmill.model.functional import count_params
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.loop import train
from flaxmill.train.optimizer.config import OptimizerConfig
from flaxmill.train.optimizer.freezing import count_by_leaf, count_trained
from flaxmill.train.plan import dry_run as module
from flaxmill.train.plan.auto_mesh import Devices
from flaxmill.train.plan.cost import in_time
from flaxmill.train.plan.dry_run import dry_run
from flaxmill.train.run.directory import NOTHING, read_config

pytestmark = pytest.mark.slow  # it compiles


def lines_of(text, title):
    """The lines below a title, up to the next blank line."""
    lines = text.splitlines()
    below = lines[lines.index(title) + 1 :]
    return [line.strip() for line in below[: below.index("")]]


def number_of(line):
    return int(line.split()[1].replace(",", ""))


def test_it_says_what_the_run_then_is(make_experiment, capsys, tmp_path):
    experiment = make_experiment(steps=3, eval_batches=1, run_dir=str(tmp_path / "run"))
    assert dry_run(experiment, NOTHING, None, "as configured") == 0
    said = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    resolved = read_config(train(experiment).directory)
    *parts, everything = lines_of(said, "Parameters")[1:]
    assert number_of(everything) == sum(map(number_of, parts)) == count_params(resolved.model)
    assert all(line.endswith("  all") for line in parts)
    begins, length, _, time, _ = lines_of(said, "The run")
    assert time.startswith("time: at least ")
    assert time.endswith(" in all, at the speed of a matrix product here")
    assert begins == f"begins in {tmp_path / 'run'}"
    assert length.startswith(f"3 steps of {experiment.batch_size} rows, ")
    assert "The first batch, 2 of its" in said
    memory = lines_of(said, "Memory of a device")
    assert memory[-1].endswith(", by the compiler")


def test_it_says_where_a_run_would_continue_and_changes_nothing(make_experiment, capsys, tmp_path):
    experiment = make_experiment(steps=2, eval_batches=1, run_dir=str(tmp_path / "run"))
    train(experiment)
    before = {path: path.stat().st_mtime_ns for path in Path(tmp_path / "run").rglob("*")}
    capsys.readouterr()
    assert dry_run(experiment, NOTHING, None, "") == 0
    assert lines_of(capsys.readouterr().out, "The run")[0] == f"continues {tmp_path / 'run'} at step 2"
    assert {path: path.stat().st_mtime_ns for path in Path(tmp_path / "run").rglob("*")} == before
    with pytest.raises(ValueError, match="trained with steps 2 -> 1"):
        dry_run(dataclasses.replace(experiment, steps=1), NOTHING, None, "")


def test_frozen_parameters_are_not_trained(make_experiment, capsys):
    frozen = make_experiment(steps=1, optimizer=OptimizerConfig(freeze=("embed/*", "layers.0/mlp/*")))
    assert dry_run(frozen, NOTHING, None, "") == 0
    parts = {line.split()[0]: line.split()[-1] for line in lines_of(capsys.readouterr().out, "Parameters")}
    assert parts["embed/tokens"] == "0"
    assert parts["layers/attention"] == "all"
    assert int(parts["layers/mlp"].replace(",", "")) > 0, "one of the layers is trained"


def test_a_step_that_does_not_fit_ends_with_1(make_experiment, capsys, monkeypatch):
    monkeypatch.setattr(module, "find_devices", lambda: Devices(8, 2**20))
    assert dry_run(make_experiment(steps=1, mesh=MeshConfig(data=2)), NOTHING, None, "") == 1
    assert "of 1.0 MiB, by the compiler: it does not fit; `flaxmill plan` says" in capsys.readouterr().out


def test_leaves_add_up(make_experiment, tmp_path):
    model = read_config(
        train(make_experiment(steps=1, eval_batches=1, run_dir=str(tmp_path / "run"))).directory
    ).model
    counts = count_by_leaf(("embed/*",), model)
    assert sum(count.all for count in counts.values()) == count_params(model)
    embed = sum(count.all for path, count in counts.items() if path[0] == "embed")
    assert count_trained(("embed/*",), model) == count_params(model) - embed


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0123, "12.3 ms"), (4.5, "4.5 s"), (130, "2.2 min"), (9000, "2.5 h"), (864_000, "10.0 days")],
)
def test_times_have_the_unit_that_fits(seconds, said):
    assert in_time(seconds) == said


def test_the_time_is_unknown_where_products_of_another_dtype_were_measured(make_experiment, capsys):
    experiment = make_experiment(steps=1)
    model = dataclasses.replace(experiment.model, dtype="bfloat16")
    assert dry_run(dataclasses.replace(experiment, model=model), NOTHING, None, "") == 0
    assert "time: unknown for this device; a few steps tell" in capsys.readouterr().out
