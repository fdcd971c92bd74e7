"""The four trackers: each opens a session for a run, or continues the last one, writes rows, and closes."""

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from flaxmill.data.whole_files import write_whole_text
from flaxmill.train.plain_paths import plain

PROJECT = "flaxmill"
_FLUSH_SECONDS = 10
IDS_FILE = "trackers.json"
"""In the run's directory: the ids that a resumed run continues under."""
# Limits of MLflow's log_batch.
_PARAMS_AT_ONCE, _METRICS_AT_ONCE, _MAX_PARAM_LENGTH = 100, 1000, 6000

TrackedRow = dict[str, float]


class Backend(Protocol):
    """Rows hold finite floats, and their step; the steps go back where a run was resumed or rolled back."""

    def write(self, rows: list[TrackedRow]) -> None: ...

    def close(self, *, failed: bool) -> None: ...


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, run_dir: Path, run_name: str, run_id: str, config: dict[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        self._open_writer = SummaryWriter
        self._directory = run_dir / "tensorboard"
        self._writer: Any = None
        self._last_step = 0

    def write(self, rows: list[TrackedRow]) -> None:
        for row in rows:
            values = dict(row)
            step = int(values.pop("step"))
            if self._writer is None or step < self._last_step:
                self._writer = self._start_file(step)
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._last_step = step

    def close(self, *, failed: bool) -> None:
        if self._writer is not None:
            self._writer.close()

    def _start_file(self, step: int) -> Any:
        """Open a file that hides what earlier files say about this step and those after it."""
        if self._writer is not None:
            self._writer.close()
        # Files are named by the second: two files of one second must not become one.
        suffix = f".{time.time_ns()}"
        return self._open_writer(
            str(self._directory), purge_step=step, flush_secs=_FLUSH_SECONDS, filename_suffix=suffix
        )


class WeightsAndBiases:
    """A W&B run, in the project of WANDB_PROJECT; its local files are in RUN/wandb."""

    def __init__(self, run_dir: Path, run_name: str, run_id: str, config: dict[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_name,
            id=run_id,
            resume="allow",
            dir=str(run_dir),
            config=config,
            allow_val_change=True,  # for settings that may change when a run continues, such as its mesh
            settings=wandb.Settings(silent=True, console="off"),
        )
        # wandb drops a row if wandb's own step goes back, so ours is a metric that the others are drawn over.
        self._run.define_metric("*", step_metric="step")

    def write(self, rows: list[TrackedRow]) -> None:
        for row in rows:
            self._run.log(row)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class MLflow:
    """An MLflow run, at MLFLOW_TRACKING_URI or else in RUN/mlflow/mlflow.db."""

    def __init__(self, run_dir: Path, run_name: str, run_id: str, config: dict[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read while mlflow is imported
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

        self._make_metric = Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        directory = run_dir / "mlflow"
        if not uri:
            directory.mkdir(parents=True, exist_ok=True)
        # This is a URL, in which SQLAlchemy decodes % and cuts at ?.
        self._client = MlflowClient(uri or f"sqlite:///{plain(directory / 'mlflow.db', '%?#')}")
        experiment = self._experiment(None if uri else (directory / "artifacts").as_uri())
        known = self._client.search_runs([experiment], f"tags.`flaxmill.run_id` = '{run_id}'", max_results=1)
        if known:
            self._id = known[0].info.run_id
            self._client.update_run(self._id, "RUNNING")
            return  # MLflow refuses other values of parameters that it knows
        tags = {"flaxmill.run_id": run_id}
        self._id = self._client.create_run(experiment, run_name=run_name, tags=tags).info.run_id
        params = [Param(name, str(value)[:_MAX_PARAM_LENGTH]) for name, value in _flatten(config)]
        for some in _batched(params, _PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=some)

    def write(self, rows: list[TrackedRow]) -> None:
        milliseconds = time.time_ns() // 1_000_000
        metrics = [
            self._make_metric(name, value, milliseconds, int(row["step"]))
            for row in rows
            for name, value in row.items()
            if name != "step"
        ]
        for some in _batched(metrics, _METRICS_AT_ONCE):
            self._client.log_batch(self._id, metrics=some)

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")

    def _experiment(self, artifacts: str | None) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        if known is not None:
            return known.experiment_id
        return self._client.create_experiment(name, artifact_location=artifacts)


class Aim:
    """An Aim run, in the repository AIM_REPO or else in RUN/aim."""

    def __init__(self, run_dir: Path, run_name: str, run_id: str, config: dict[str, Any]) -> None:
        import aim  # pyright: ignore[reportMissingImports]

        repository = os.environ.get("AIM_REPO") or str(run_dir / "aim")
        if "://" not in repository:
            Path(repository).mkdir(parents=True, exist_ok=True)
        # Aim names its runs itself; no other tracker writes this file while the run lasts.
        ids = run_dir / IDS_FILE
        known = json.loads(ids.read_bytes()) if ids.exists() else {"run_id": run_id}
        settings = dict(repo=repository, experiment=PROJECT, force_resume=True)  # despite a killed run's lock
        settings |= dict(system_tracking_interval=None, log_system_params=False, capture_terminal_logs=False)
        try:
            self._run = aim.Run(run_hash=known.get("aim"), **settings)
        except aim.sdk.errors.MissingRunError:  # the repository is another one
            self._run = aim.Run(**settings)
        if known.get("aim") != self._run.hash:
            write_whole_text(ids, json.dumps({**known, "aim": self._run.hash}) + "\n")
        self._run.name = run_name
        self._run["config"] = config

    def write(self, rows: list[TrackedRow]) -> None:
        for row in rows:
            for name, value in row.items():
                if name != "step":
                    self._run.track(value, name=name, step=int(row["step"]))

    def close(self, *, failed: bool) -> None:
        self._run.close()


BACKENDS: dict[str, Callable[[Path, str, str, dict[str, Any]], Backend]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "aim": Aim,
}


def _flatten(config: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _batched(values: list[Any], size: int) -> Iterable[list[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))
