"""Epochs are steps, once the data are known: the same run, stored with both."""

import pytest
from launching import step_rows

from flaxmill.data.config import DataConfig
from flaxmill.train.commands.train_command import TrainArguments
from flaxmill.train.experiment import Experiment
from flaxmill.train.loop import train
from flaxmill.train.overrides import override
from flaxmill.train.run.directory import read_config

pytestmark = pytest.mark.slow  # it trains


def rows_of(directory):
    """What a run computed at each step."""
    return [(row["step"], row["loss"], row["learning_rate"]) for row in step_rows(directory)]


def num_rows(line):
    """The rows that `epochs=E of R rows come to ...` names."""
    return int(line.partition(" of ")[2].partition(" ")[0].replace(",", ""))


def with_flags(config, *flags):
    return override(TrainArguments(config=config), flags, program="flaxmill train").config


def test_epochs_are_the_steps_that_they_come_to(make_experiment, capsys, tmp_path):
    few = make_experiment(epochs=1e-9, eval_batches=1)
    assert train(few).step == 1
    rows = num_rows(capsys.readouterr().out.split("epochs=1e-09", 1)[1])
    epochs = 4.5 * few.batch_size / rows
    by_epochs = train(make_experiment(epochs=epochs, eval_batches=1, run_dir=str(tmp_path / "epochs")))
    said = capsys.readouterr().out
    assert f"epochs={epochs:g} of {rows:,} rows come to 5 steps of {few.batch_size}\n" in said
    by_steps = train(make_experiment(steps=5, eval_batches=1, run_dir=str(tmp_path / "steps")))
    assert by_epochs.step == by_steps.step == 5
    assert rows_of(by_epochs.directory) == rows_of(by_steps.directory)
    stored = read_config(by_epochs.directory)
    assert (stored.steps, stored.epochs) == (5, epochs)


def test_a_run_of_epochs_continues_and_is_extended(make_experiment, capsys):
    experiment = make_experiment(epochs=1e-9, eval_batches=1)
    first = train(experiment)
    rows = num_rows(capsys.readouterr().out.split("epochs=1e-09", 1)[1])
    here = {"eval_batches": 1, "run_dir": str(first.directory)}
    assert train(make_experiment(epochs=1e-9, **here)).step == 1
    more = make_experiment(epochs=3 * experiment.batch_size / rows, **here)
    with pytest.raises(ValueError, match="trained with steps 1 -> 3; add --extend to continue to 3"):
        train(more)
    assert train(more, extend=True).step == 3
    with pytest.raises(ValueError, match="trained with steps 3 -> 1; --extend only lengthens a run"):
        train(make_experiment(epochs=1e-9, **here), extend=True)


def test_steps_on_the_command_line_replace_epochs():
    config = with_flags(Experiment(), "--epochs", "3")
    assert (config.epochs, config.steps) == (3, Experiment().steps)
    config = with_flags(config, "--steps", "7")
    assert (config.epochs, config.steps) == (None, 7)
    assert with_flags(config, "--steps", "7", "--epochs", "None").epochs is None
    with pytest.raises(ValueError, match="--steps 7 and --epochs 3 both say how long to train; give one"):
        with_flags(Experiment(), "--epochs", "3", "--steps=7")


@pytest.mark.parametrize("epochs", ["0", "-1", "nan"])
def test_epochs_are_above_0(epochs):
    with pytest.raises(ValueError, match=rf"^epochs={float(epochs)} must be above 0, or None"):
        with_flags(Experiment(), "--epochs", epochs)


def test_a_mixture_has_no_epochs_as_a_whole():
    sources = ("a=0.5:one.txt", "b=0.5:two.txt")
    with pytest.raises(ValueError, match=r"^epochs=2.*give --steps, or limit a source as NAME=WEIGHT@E"):
        Experiment(epochs=2, data=DataConfig(sources=sources))
