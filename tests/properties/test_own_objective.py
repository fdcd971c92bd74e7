"""An objective that an experiment file defines trains, continues and evaluates like any other."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from launching import assert_same_end, values_of

from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train import Objective, ObjectiveData, define_objective
from flaxmill.train.checkpoint.config import CheckpointConfig
from flaxmill.train.loop import train
from flaxmill.train.metrics.metrics_file import read_metrics
from flaxmill.train.named_configs import load_config
from flaxmill.train.objectives.table import OBJECTIVES, objective_of

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"
# Sums have another order: float32 rounds by 1.2e-7 a step, and eight steps of Adam enlarge that.
MESH_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The example of the page, as a user would copy it."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    path = tmp_path_factory.mktemp("own") / "two_ahead.py"
    path.write_text(code)
    return path


@pytest.fixture(scope="module")
def experiment(file, corpus):
    config = load_config(str(file))
    data = dataclasses.replace(
        config.data, files=(str(corpus),), documents="blank_lines", vocab_size=400, sequence_length=32
    )
    model = dataclasses.replace(config.model, embed_dim=32, dropout=0.1)
    return dataclasses.replace(
        config,
        steps=8,
        batch_size=16,
        log_every=1,
        eval_batches=2,
        data=data,
        model=model,
        mesh=MeshConfig(data=1),
        checkpoint=CheckpointConfig(every=4),
    )


@pytest.fixture(scope="module")
def straight(experiment, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    return train(dataclasses.replace(experiment, run_dir=str(run_dir)))


@pytest.fixture
def forgotten():
    """Makes the objective unknown, as in a process that has not run the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(OBJECTIVES, "two_ahead")
        yield


def test_it_learns_and_reports_its_terms(straight):
    assert straight.metrics.keys() >= {"eval_loss", "eval_next_loss", "eval_second_accuracy"}
    rows = [row for row in read_metrics(straight.directory / "metrics.jsonl") if "loss" in row]
    assert rows[7]["loss"] < rows[0]["loss"]
    assert rows[0]["loss"] == pytest.approx(rows[0]["next_loss"] + rows[0]["second_loss"], rel=1e-6)


def test_the_run_keeps_the_name_the_file_and_its_digest(straight, file):
    config = json.loads((straight.directory / "config.json").read_text())
    assert config["objective"] == "two_ahead"
    assert config["objective_file"] == str(file)
    assert config["objective_sha256"] == objective_of("two_ahead").sha256


def test_a_run_that_stops_continues_bit_for_bit(experiment, straight, tmp_path, stop_after):
    stopped = dataclasses.replace(experiment, run_dir=str(tmp_path / "stopped"))
    assert train(stopped, stop=stop_after(3)).preempted
    assert train(stopped).step == 8
    assert_same_end(tmp_path / "stopped", straight.directory, 8)


def test_losses_are_the_same_on_another_mesh(experiment, straight, tmp_path):
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    train(dataclasses.replace(experiment, run_dir=str(tmp_path / "mesh"), mesh=mesh))
    found, expected = values_of(tmp_path / "mesh"), values_of(straight.directory)
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=MESH_TOLERANCE)


def test_microbatches_change_nothing(experiment, straight, tmp_path):
    other = dataclasses.replace(experiment, run_dir=str(tmp_path / "run"), accumulate=4)
    train(dataclasses.replace(other, model=dataclasses.replace(other.model, dropout=0.0), steps=1))
    plain = dataclasses.replace(experiment, run_dir=str(tmp_path / "plain"), steps=1)
    train(dataclasses.replace(plain, model=dataclasses.replace(plain.model, dropout=0.0)))
    found, expected = values_of(tmp_path / "run"), values_of(tmp_path / "plain")
    assert found[0] == pytest.approx(expected[0], rel=MESH_TOLERANCE)


@pytest.mark.parametrize("command", [("eval", "--json"), ("generate", "The", "--json")])
def test_its_file_runs_only_if_a_user_names_it(command, straight, file, forgotten, flaxmill):
    name, *rest = command
    arguments = [name, str(straight.directory), *rest]
    code, _, err = flaxmill(*arguments)
    assert code == 2
    assert err == (
        f"flaxmill: error: objective=two_ahead is defined in {file}, which flaxmill runs only if you name "
        f"it: add --config {file}, or begin with it: flaxmill train {file}\n"
    )
    code, out, _ = flaxmill(*arguments, "--config", str(file))
    assert code == 0
    assert json.loads(out)


def test_what_needs_no_code_needs_no_file(straight, forgotten, flaxmill, tmp_path):
    code, out, _ = flaxmill("checkpoints", str(straight.directory))
    assert code == 0
    assert "whole" in out
    code, out, _ = flaxmill("export", str(straight.directory), str(tmp_path / "hf"))
    assert code == 0
    assert (tmp_path / "hf" / "model.safetensors").is_file()


def test_a_changed_file_continues_only_if_a_user_says_so(experiment, straight, file, tmp_path, monkeypatch):
    changed = OBJECTIVES["two_ahead"]._replace(sha256="0" * 64)
    monkeypatch.setitem(OBJECTIVES, "two_ahead", changed)
    run_dir = shutil.copytree(straight.directory, tmp_path / "run")
    longer = dataclasses.replace(experiment, run_dir=str(run_dir))
    with pytest.raises(ValueError, match=rf"was trained with another version of {file}, .*--allow-other-obj"):
        train(longer)
    assert train(longer, allow_other_objective=True).step == 8


def test_a_run_of_it_needs_its_file_to_continue(straight, file, forgotten, flaxmill):
    code, _, err = flaxmill("train", "--run-dir", str(straight.directory))
    assert code == 2
    assert f"begin with it: flaxmill train {file}" in err


DATA = ObjectiveData(("packed",), "flaxmill.data.text_batches:causal")
ROW = Objective(DATA, head="lm", terms=("x",), sums="flaxmill.train.objectives.losses:token_sums")


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("causal", ROW, "'causal' is one of flaxmill's own; give yours another name"),
        ("mine", ROW._replace(terms=()), "'mine' has no terms"),
        (
            "mine",
            ROW._replace(head="x"),
            "'mine' has the head 'x', which no objective trains; use one of lm, ",
        ),
        ("mine", ROW._replace(head="none"), "'mine' has the head 'none', which no objective trains"),
        (
            "mine",
            ROW._replace(data=DATA._replace(layouts=("labelled",))),
            "'labelled' without saying `examples`",
        ),
        ("mine", ROW._replace(data=DATA._replace(special_tokens=("bos",))), "needs the token 'bos', unknown"),
        ("mine", ROW._replace(data=OBJECTIVES["classification"].data), "lacks `predict` or `measure`"),
        ("mine", ROW._replace(data=DATA._replace(layouts=("x",))), "'mine' reads the layout 'x', which is"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused(name, row, message):
    with pytest.raises(ValueError, match=message):
        define_objective(name, row, file=__file__)
    assert "mine" not in OBJECTIVES


def test_z_loss_needs_what_it_is_made_of(file, flaxmill, tmp_path):
    code, _, err = flaxmill("train", str(file), "--z-loss", "0.1", "--run-dir", str(tmp_path / "run"))
    assert code == 2
    assert err == (
        "flaxmill: error: z_loss=0.1 needs a loss over the vocabulary, which objective=two_ahead does not "
        "have; leave it 0\n"
    )
    assert not (tmp_path / "run").exists()
