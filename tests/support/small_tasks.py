"""Experiments on small labelled files of every task, which train in seconds."""

import dataclasses
from pathlib import Path
from typing import Any

from task_files import objective_of, write_task

from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.optimizer.optimizers import OptimizerConfig

NUM_TRAIN, NUM_VALID = 160, 24


def task_data(task: str, directory: Path, **changes: Any) -> DataConfig:
    """Training and held-out files, written if they are not there yet."""
    data, held_out = write_task(directory, task, NUM_TRAIN), write_task(directory, task, NUM_VALID, seed=1)
    return dataclasses.replace(data, valid_files=held_out.files, **changes)


def task_experiment(task: str, data: DataConfig, run_dir: Path, **changes: Any) -> Experiment:
    """Two layers of 32 with dropout, on one device; `model` changes single fields."""
    shape: dict[str, Any] = {"num_layers": 2, "embed_dim": 32, "num_heads": 4, "dropout": 0.1}
    if task == "translation":
        shape |= {"encoder_layers": 2}
    if task in ("pairs", "answers"):
        shape |= {"num_segments": 2}
    settings: dict[str, Any] = {
        "name": task,
        "objective": objective_of(task),
        "steps": 8,
        "batch_size": 16,
        "log_every": 1,
        "run_dir": str(run_dir),
        "data": data,
        "model": ModelConfig(**(shape | changes.pop("model", {}))),
        "mesh": MeshConfig(data=1),
        "optimizer": OptimizerConfig(learning_rate=3e-3),
    }
    return Experiment(**(settings | changes))
