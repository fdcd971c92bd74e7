"""Functions that an experiment file defines follow the evaluations of its runs."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from groups import Group
from launching import assert_same_arrays, assert_same_end, evaluations_of, write_experiment
from small_tasks import task_data, task_experiment

from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train import BestConfig, Evaluated, Model, define_callback
from flaxmill.train.checkpoint.directory import find_steps
from flaxmill.train.loop import train
from flaxmill.train.metrics.callbacks import CALLBACKS, CallbackError
from flaxmill.train.metrics.metrics_file import read_metrics
from flaxmill.train.named_configs import load_config

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "callbacks.md"


def examples_of_the_page():
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The first example of the page, as a user would copy it."""
    path = tmp_path_factory.mktemp("own") / "varied.py"
    path.write_text(examples_of_the_page()[0])
    return path


@pytest.fixture
def defined():
    """The callbacks that a test defines are gone after it."""
    before = dict(CALLBACKS)
    yield
    CALLBACKS.clear()
    CALLBACKS.update(before)


def shrunk(config, corpus, **changes):
    data = dataclasses.replace(
        config.data, files=(str(corpus),), documents="blank_lines", vocab_size=400, sequence_length=32
    )
    model = dataclasses.replace(config.model, embed_dim=32, scan_layers=False)
    small = dict(steps=8, batch_size=16, log_every=1, eval_every=4, eval_batches=2, mesh=MeshConfig(data=1))
    return dataclasses.replace(config, data=data, model=model, **(small | changes))


@pytest.fixture(scope="module")
def experiment(file, corpus):
    return shrunk(load_config(str(file)), corpus)


@pytest.fixture(scope="module")
def straight(experiment, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    return train(dataclasses.replace(experiment, run_dir=str(run_dir)))


def test_its_numbers_are_in_the_rows_and_the_best_checkpoint_follows_them(straight):
    rows = evaluations_of(straight.directory)
    values = {step: row["eval_distinct_words"] for step, row in rows.items()}
    assert values.keys() == {4, 8}
    assert straight.metrics["eval_distinct_words"] == max(values.values())
    assert len((straight.directory / "written.txt").read_text().splitlines()) == 2 * 3
    config = json.loads((straight.directory / "config.json").read_text())
    assert config["callbacks"] == ["variety"]


def test_a_run_that_stops_continues_bit_for_bit(experiment, straight, tmp_path, stop_after):
    stopped = dataclasses.replace(experiment, run_dir=str(tmp_path / "stopped"))
    assert train(stopped, stop=stop_after(3)).preempted
    assert train(stopped).step == 8
    (tmp_path / "stopped" / "written.txt").unlink()  # the callback's own
    assert_same_end(tmp_path / "stopped", straight.directory, 8)


def test_callbacks_change_no_step(experiment, straight, tmp_path):
    without = dataclasses.replace(experiment, run_dir=str(tmp_path / "run"), callbacks=(), best=BestConfig())
    train(without)
    assert_same_arrays(tmp_path / "run", straight.directory, 8)


def test_eval_calls_them_if_their_file_is_named(straight, file, flaxmill, monkeypatch):
    monkeypatch.delitem(CALLBACKS, "variety")
    code, out, err = flaxmill("eval", straight.directory, "--json")
    assert code == 0
    assert "eval_distinct_words" not in json.loads(out)
    assert f"the callbacks variety are defined in {file}: add --config {file} to call them, too" in err
    code, out, _ = flaxmill("eval", straight.directory, "--json", "--config", file)
    assert json.loads(out)["eval_distinct_words"] == straight.metrics["eval_distinct_words"]


def test_a_run_continues_with_its_file_or_without_them(straight, file, flaxmill, monkeypatch, tmp_path):
    run_dir = shutil.copytree(straight.directory, tmp_path / "run")
    monkeypatch.delitem(CALLBACKS, "variety")
    code, _, err = flaxmill("train", "--run-dir", run_dir)
    assert code == 2
    assert err == (
        f"flaxmill: error: callbacks=variety is defined in {file}, which flaxmill runs only if you name it: "
        f"begin with flaxmill train {file}, or go on without it: --callbacks None\n"
    )
    longer = ("train", "--run-dir", run_dir, "--callbacks", "None", "--steps", "10", "--extend")
    assert flaxmill(*longer, "--best.metric", "None")[0] == 0
    assert json.loads((run_dir / "config.json").read_text())["callbacks_file"] is None


MESHES = [dict(data=2, fsdp=2, tensor=2), dict(data=1, context=2), dict(data=2, stage=2)]


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_the_model_is_that_of_the_run_on_any_mesh(mesh, experiment, straight, corpus, tmp_path, defined):
    texts = ["The import statement", "A class"]
    found = {}

    def look(evaluated):
        found[evaluated.step] = evaluated.model.score(texts), evaluated.model.embed(texts)

    run_dir, shape = tmp_path / "run", dataclasses.replace(experiment.model, scan_layers=True)
    callbacks = (define_callback("look", look, file=__file__),)
    changes = dict(callbacks=callbacks, best=BestConfig(), mesh=MeshConfig(**mesh), model=shape)
    train(dataclasses.replace(experiment, run_dir=str(run_dir), **changes))
    model = Model.load(run_dir)
    scores, vectors = found[8]
    for score, expected in zip(scores, model.score(texts), strict=True):
        assert score.log_probabilities == pytest.approx(expected.log_probabilities, rel=1e-4)
    np.testing.assert_allclose(vectors, model.embed(texts), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return task_data("classification", tmp_path_factory.mktemp("labels"))


def test_predictions_are_those_of_eval(labels, tmp_path, flaxmill, defined):
    found = {}

    def keep(evaluated: Evaluated) -> dict[str, Any]:
        found["rows"] = [
            (example.columns, example.wanted, prediction)
            for example, prediction in zip(evaluated.examples, evaluated.predictions, strict=True)
        ]
        right = np.mean([wanted == prediction.value for _, wanted, prediction in found["rows"]])
        return {"right": right, "loss_again": evaluated.metrics["eval_loss"]}

    callback = define_callback("keep", keep, metrics=["right", "loss_again"], file=__file__)
    metrics = train(
        task_experiment("classification", labels, tmp_path / "run", callbacks=(callback,))
    ).metrics
    assert metrics["eval_right"] == pytest.approx(metrics["eval_accuracy"], rel=1e-6)
    assert metrics["eval_loss_again"] == metrics["eval_loss"]
    code, out, _ = flaxmill("eval", tmp_path / "run", "--json")
    assert code == 0
    lines = Path(json.loads(out)["predictions"]).read_text().splitlines()
    for line, (columns, wanted, prediction) in zip(map(json.loads, lines), found["rows"], strict=True):
        assert line.items() >= columns.items()
        assert wanted in columns.values()
        assert line["prediction"] == prediction.value
        assert line["probabilities"] == pytest.approx(prediction.details["probabilities"], rel=1e-5)
    assert json.loads(out)["eval_right"] == pytest.approx(metrics["eval_right"])


def test_the_second_example_of_the_page_trains(labels, tmp_path, defined):
    path = tmp_path / "cheapest.py"
    path.write_text(examples_of_the_page()[1])
    config = load_config(str(path))
    small = task_experiment("classification", labels, tmp_path / "run", eval_every=4)
    metrics = train(dataclasses.replace(small, callbacks=config.callbacks, best=config.best)).metrics
    assert 0 <= metrics["eval_cost_loss"] <= 10


def test_an_example_is_refused_where_there_are_none(experiment, tmp_path, defined):
    define_callback("wrong", lambda evaluated: evaluated.predictions, file=__file__)
    with pytest.raises(CallbackError, match="objective=causal has no examples; they are of labelled data"):
        train(
            dataclasses.replace(
                experiment, callbacks=("wrong",), best=BestConfig(), run_dir=str(tmp_path / "run")
            )
        )


FAILING = "\ndef variety(evaluated):\n    return {'distinct_words': 1 / (evaluated.step - 4)}\n\nconfig = "


def test_a_function_that_fails_loses_nothing(file, corpus, straight, tmp_path, flaxmill, monkeypatch):
    monkeypatch.setitem(CALLBACKS, "variety", CALLBACKS["variety"])
    bad = tmp_path / "varied.py"
    bad.write_text(file.read_text().replace("\nconfig = ", FAILING))
    line = bad.read_text().split("1 / (")[0].count("\n") + 1
    settings = (
        *("--steps", 8, "--batch-size", 16, "--log-every", 1, "--eval-every", 4, "--eval-batches", 2),
        *("--data.files", corpus, "--data.documents", "blank_lines", "--data.vocab-size", 400),
        *("--data.sequence-length", 32, "--model.embed-dim", 32, "--model.no-scan-layers", "--mesh.data", 1),
    )
    code, _, err = flaxmill("train", bad, "--run-dir", tmp_path / "run", *settings)
    assert code == 2, err
    assert err.splitlines()[-1] == (
        f"flaxmill: error: callback variety after the evaluation of step 4: {bad}:{line}: "
        "ZeroDivisionError: division by zero; mend it, or go on without it: --callbacks None"
    )
    assert find_steps(tmp_path / "run" / "checkpoints") == [4]
    assert flaxmill("train", file, "--run-dir", tmp_path / "run", *settings)[0] == 0
    (tmp_path / "run" / "written.txt").unlink()
    assert_same_end(tmp_path / "run", straight.directory, 8)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "ValueError: it returned the metrics none, and was defined with x"),
        ({"y": 1.0}, "ValueError: it returned the metrics y, and was defined with x"),
        ({"x": "1"}, "TypeError: x='1' is not a number"),
        ({"x": np.ones(2)}, r"TypeError: x=array\(\[1., 1.\]\) is not a number"),
        ([1.0], r"TypeError: it returned \[1.0\]; return a dict of numbers, or nothing"),
    ],
)
def test_what_is_not_as_defined_is_refused(returned, message, experiment, straight, tmp_path, defined):
    define_callback("wrong", lambda evaluated: returned, metrics=["x"], file=__file__)
    run_dir = shutil.copytree(straight.directory, tmp_path / "run")
    wrong = dataclasses.replace(
        experiment, callbacks=("wrong",), best=BestConfig(), run_dir=str(run_dir), eval_every=None
    )
    with pytest.raises(CallbackError, match=f"callback wrong after the evaluation of step 8: .*{message}"):
        train(wrong)


@pytest.mark.parametrize("value", [2, True, np.float32(2), np.array(2), jax.numpy.bfloat16(2)], ids=repr)
def test_any_single_number_will_do(value, experiment, straight, tmp_path, defined):
    define_callback("number", lambda evaluated: {"x": value}, metrics="x", file=__file__)
    run_dir = shutil.copytree(straight.directory, tmp_path / "run")
    again = dataclasses.replace(
        experiment, callbacks=("number",), best=BestConfig(), run_dir=str(run_dir), eval_every=None
    )
    assert train(again).metrics["eval_x"] == float(value)


@pytest.mark.parametrize(
    ("name", "metrics", "message"),
    [
        ("a b", (), "callback 'a b': 'a b' is no name"),
        ("a", ["eval_x"], "would be reported as eval_eval_x; name it 'x'"),
        ("a", ["x", "x"], "has the metric 'x' twice"),
        ("a", [1], "1 is no name"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(name, metrics, message, defined):
    with pytest.raises(ValueError, match=message):
        define_callback(name, print, metrics=metrics, file=__file__)
    assert "a" not in CALLBACKS


def test_two_callbacks_have_different_metrics_and_one_file(experiment, tmp_path, defined):
    define_callback("one", print, metrics=["x"], file=__file__)
    define_callback("two", print, metrics=["x"], file=str(tmp_path / "other.py"))
    define_callback("three", print, file=str(tmp_path / "other.py"))
    with pytest.raises(ValueError, match="callbacks one and two both have the metric 'x'; rename one"):
        dataclasses.replace(experiment, callbacks=("one", "two"))
    several = dataclasses.replace(
        experiment, callbacks=("one", "three"), best=BestConfig(), run_dir=str(tmp_path / "run")
    )
    with pytest.raises(ValueError, match=r"are defined in several files \(one in .*; define all of a run's"):
        train(several)
    assert not (tmp_path / "run").exists()


def test_a_metric_that_evaluations_have_already_is_refused(experiment, tmp_path, defined):
    define_callback("same", print, metrics=["loss"], file=__file__)
    same = dataclasses.replace(
        experiment, callbacks=("same",), best=BestConfig(), run_dir=str(tmp_path / "run")
    )
    with pytest.raises(
        ValueError, match=r"^callback same measures eval_loss, which evaluations have already"
    ):
        train(same)
    assert not (tmp_path / "run").exists()


def test_an_unknown_name_and_an_unknown_metric_are_one_line(file, flaxmill, tmp_path):
    code, _, err = flaxmill("train", "--callbacks", "nothing", "--run-dir", tmp_path / "run")
    assert code == 2
    assert err.count("\n") == 1
    assert "callbacks=nothing is not defined; a config file defines it with define_callback" in err
    code, _, err = flaxmill("train", file, "--best.metric", "eval_y", "--run-dir", tmp_path / "run")
    assert code == 2
    assert "best.metric=eval_y is not what this run evaluates; use one of eval_" in err
    assert "eval_distinct_words" in err
    assert not (tmp_path / "run").exists()


IN_A_JOB = """
import jax
import jax.numpy as jnp
from flaxmill.train import define_callback
from dataclasses import replace

def norm(evaluated):
    try:
        evaluated.model
    except ValueError as error:
        assert "this job has 2" in str(error)
    total = jax.jit(lambda params: sum(jnp.sum(x * x) for x in jax.tree.leaves(params)))(evaluated.params)
    if evaluated.step == 4 and FAILS:
        assert jax.process_index() == 0, "process 1 fails"
    return {"norm": total.item() + jax.process_index()}

FAILS = False
config = replace(config, callbacks=(define_callback("norm", norm, metrics=["norm"], file=__file__),))
"""


def test_processes_of_a_job_call_them_together(corpus, tmp_path):
    settings: dict[str, Any] = dict(steps=6, batch_size=8, eval_every=2, eval_batches=2)
    file = write_experiment(
        tmp_path / "job.py", "causal", corpus, data_axis=None, checkpoint=dict(every=100), **settings
    )
    right = file.read_text() + IN_A_JOB
    file.write_text(right.replace("FAILS = False", "FAILS = True"))
    mesh = ("--mesh.fsdp", 4, "--mesh.data", 1)
    with Group(file, tmp_path / "run", 2, *mesh) as group:
        assert group.wait() == [2, 2], group.errors
        for job in group.jobs:
            assert f"step 4: {file}:" in job.err
            assert "AssertionError: process 1 fails; mend it" in job.err
    assert find_steps(tmp_path / "run" / "checkpoints") == [4]
    file.write_text(right)
    with Group(file, tmp_path / "run", 2, *mesh) as group:
        assert group.wait() == [0, 0], group.errors
    norms = [
        row["eval_norm"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "eval_norm" in row
    ]
    arrays = Model.load(tmp_path / "run").params
    expected = sum(float(np.sum(np.square(array))) for array in jax.tree.leaves(arrays))
    assert norms[-1] == pytest.approx(expected, rel=1e-5)
    assert len(norms) == 3
