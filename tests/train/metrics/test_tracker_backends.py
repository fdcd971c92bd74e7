"""Fakes of each tracker's library record what it is asked for; TensorBoard's files are real."""

import importlib.machinery
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, call

import pytest

from flaxmill.train.metrics.tracker_backends import Aim, MLflow, TensorBoard, WeightsAndBiases

CONFIG = {"steps": 8, "model": {"num_layers": 2, "dtype": None}, "files": ["a", "b"]}
ROWS = [{"step": 3.0, "loss": 1.5}, {"step": 4.0, "loss": 1.25}, {"step": 5.0, "eval_loss": 2.0}]


@pytest.fixture
def fake_module(monkeypatch):
    """Makes an import of a name, which may be dotted, find a module with these attributes."""

    def make(name: str, **attributes: Any) -> ModuleType:
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__dict__.update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return make


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in ("WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "AIM_REPO"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")  # as the backend would


def event_steps(path) -> list[tuple[str, int]]:
    """("purge" or a tag, step) of each event of a file."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    data, found = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        data = data[12 + length + 4 :]
        if event.HasField("session_log"):
            found.append(("purge", event.step))
        found += [(value.tag, event.step) for value in event.summary.value]
    return found


def test_tensorboard_hides_what_a_resumed_or_rolled_back_run_writes_again(tmp_path):
    board = TensorBoard(tmp_path, "run", "id", CONFIG)
    board.write([*ROWS, {"step": 3.0, "loss": 1.0}])
    board.close(failed=False)
    resumed = TensorBoard(tmp_path, "run", "id", CONFIG)
    resumed.write(ROWS[1:2])
    resumed.close(failed=False)
    files = sorted((tmp_path / "tensorboard").iterdir())  # the order in which TensorBoard reads them
    assert list(map(event_steps, files)) == [
        [("purge", 3), ("loss", 3), ("loss", 4), ("eval_loss", 5)],
        [("purge", 3), ("loss", 3)],
        [("purge", 4), ("loss", 4)],
    ]


def test_tensorboard_without_rows_writes_no_file(tmp_path):
    TensorBoard(tmp_path, "run", "id", CONFIG).close(failed=True)
    assert list(tmp_path.iterdir()) == []


def test_wandb_resumes_by_id_quietly_and_draws_over_our_step(fake_module, monkeypatch, tmp_path):
    wandb = fake_module("wandb", init=MagicMock(), Settings=lambda **settings: settings)
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    session = WeightsAndBiases(tmp_path, "run", "id", CONFIG)
    wandb.init.assert_called_once_with(
        project="theirs",
        name="run",
        id="id",
        resume="allow",
        dir=str(tmp_path),
        config=CONFIG,
        allow_val_change=True,
        settings={"silent": True, "console": "off"},
    )
    run = wandb.init.return_value
    run.define_metric.assert_called_once_with("*", step_metric="step")
    session.write(ROWS)
    assert run.log.call_args_list == [call(row) for row in ROWS]
    session.close(failed=True)
    run.finish.assert_called_once_with(exit_code=1)


@pytest.fixture
def mlflow_client(fake_module):
    client = MagicMock()
    client.get_experiment_by_name.return_value = None
    client.create_experiment.return_value = "7"
    client.search_runs.return_value = []
    client.create_run.return_value.info.run_id = "new"
    fake_module("mlflow", MlflowClient=MagicMock(return_value=client))
    fake_module("mlflow.entities", Metric=lambda *values: values, Param=lambda *values: values)
    return client


def test_mlflow_makes_a_run_with_flat_parameters_in_the_run_directory(mlflow_client, tmp_path):
    session = MLflow(tmp_path, "run", "id", CONFIG)
    sys.modules["mlflow"].MlflowClient.assert_called_once_with(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    artifacts = (tmp_path / "mlflow" / "artifacts").as_uri()
    mlflow_client.create_experiment.assert_called_once_with("flaxmill", artifact_location=artifacts)
    mlflow_client.create_run.assert_called_once_with("7", run_name="run", tags={"flaxmill.run_id": "id"})
    (logged,) = mlflow_client.log_batch.call_args_list
    assert dict(logged.kwargs["params"]) == {
        "steps": "8",
        "model.num_layers": "2",
        "model.dtype": "None",
        "files": "['a', 'b']",
    }
    session.close(failed=False)
    mlflow_client.set_terminated.assert_called_once_with("new", "FINISHED")


@pytest.mark.parametrize("name", ["what?", "100%41", "lab #3"])
def test_mlflow_opens_the_database_below_any_name(mlflow_client, tmp_path, name):
    MLflow(tmp_path / name, "run", "id", CONFIG)
    ((uri,), _) = sys.modules["mlflow"].MlflowClient.call_args
    assert not {"?", "%", "#"} & set(uri)
    assert Path(uri.removeprefix("sqlite:///")).parent.resolve() == tmp_path / name / "mlflow"


def test_mlflow_continues_the_run_of_the_same_id(mlflow_client, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    mlflow_client.get_experiment_by_name.return_value = SimpleNamespace(experiment_id="9")
    mlflow_client.search_runs.return_value = [SimpleNamespace(info=SimpleNamespace(run_id="old"))]
    session = MLflow(tmp_path, "run", "id", CONFIG)
    sys.modules["mlflow"].MlflowClient.assert_called_once_with("http://server")
    mlflow_client.search_runs.assert_called_once_with(["9"], "tags.`flaxmill.run_id` = 'id'", max_results=1)
    mlflow_client.update_run.assert_called_once_with("old", "RUNNING")
    mlflow_client.create_run.assert_not_called()
    mlflow_client.log_batch.assert_not_called()
    assert list(tmp_path.iterdir()) == []
    session.close(failed=True)
    mlflow_client.set_terminated.assert_called_once_with("old", "FAILED")


def test_mlflow_gets_metrics_in_batches_that_it_takes(mlflow_client, tmp_path):
    session = MLflow(tmp_path, "run", "id", {})
    session.write([{"step": float(step), "a": 1.0, "b": 2.0} for step in range(1200)])
    sizes = [len(logged.kwargs["metrics"]) for logged in mlflow_client.log_batch.call_args_list]
    assert sizes == [1000, 1000, 400]
    name, value, milliseconds, step = mlflow_client.log_batch.call_args_list[-1].kwargs["metrics"][-1]
    assert (name, value, step) == ("b", 2.0, 1199)
    assert milliseconds > 1e12


class MissingRunError(Exception): ...


@pytest.fixture
def aim(fake_module):
    errors = SimpleNamespace(MissingRunError=MissingRunError)
    return fake_module("aim", Run=MagicMock(), sdk=SimpleNamespace(errors=errors))


def test_aim_continues_the_run_whose_hash_stands_in_the_run_directory(aim, tmp_path):
    ids = tmp_path / "trackers.json"
    ids.write_text(json.dumps({"run_id": "id"}))
    aim.Run.return_value.hash = "hash"
    session = Aim(tmp_path, "run", "id", CONFIG)
    assert json.loads(ids.read_text()) == {"run_id": "id", "aim": "hash"}
    session.write(ROWS)
    assert aim.Run.return_value.track.call_args_list == [
        call(1.5, name="loss", step=3),
        call(1.25, name="loss", step=4),
        call(2.0, name="eval_loss", step=5),
    ]
    session.close(failed=False)
    aim.Run.return_value.close.assert_called_once_with()
    Aim(tmp_path, "run", "id", CONFIG)
    first, second = (made.kwargs for made in aim.Run.call_args_list)
    assert (first["run_hash"], second["run_hash"]) == (None, "hash")
    assert first["repo"] == str(tmp_path / "aim")
    assert first["capture_terminal_logs"] is False
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_aim_starts_a_new_run_where_the_repository_does_not_know_the_old(aim, monkeypatch, tmp_path):
    ids = tmp_path / "trackers.json"
    ids.write_text(json.dumps({"run_id": "id", "aim": "gone"}))
    monkeypatch.setenv("AIM_REPO", "aim://server:53800")
    aim.Run.side_effect = [MissingRunError, MagicMock(hash="new")]
    Aim(tmp_path, "run", "id", CONFIG)
    assert json.loads(ids.read_text())["aim"] == "new"
    assert {made.kwargs["repo"] for made in aim.Run.call_args_list} == {"aim://server:53800"}
    assert not (tmp_path / "aim").exists()
