"""Training: everything that an experiment file names.

from flaxmill.train import DataConfig, Experiment, ModelConfig, train
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxmill.data.config import DataConfig
    from flaxmill.data.objectives import ObjectiveData
    from flaxmill.model.config import ModelConfig
    from flaxmill.sharding.mesh import MeshConfig
    from flaxmill.train.best import BestConfig
    from flaxmill.train.checkpoint.config import CheckpointConfig
    from flaxmill.train.experiment import Experiment
    from flaxmill.train.loop import train
    from flaxmill.train.objectives.table import Objective, define_objective
    from flaxmill.train.optimizer.config import OptimizerConfig
    from flaxmill.train.spikes import SpikeConfig

__all__ = [
    "BestConfig",
    "CheckpointConfig",
    "DataConfig",
    "Experiment",
    "MeshConfig",
    "ModelConfig",
    "Objective",
    "ObjectiveData",
    "OptimizerConfig",
    "SpikeConfig",
    "define_objective",
    "train",
]

_MODULES = {
    "BestConfig": "flaxmill.train.best",
    "CheckpointConfig": "flaxmill.train.checkpoint.config",
    "DataConfig": "flaxmill.data.config",
    "Experiment": "flaxmill.train.experiment",
    "MeshConfig": "flaxmill.sharding.mesh",
    "ModelConfig": "flaxmill.model.config",
    "Objective": "flaxmill.train.objectives.table",
    "ObjectiveData": "flaxmill.data.objectives",
    "OptimizerConfig": "flaxmill.train.optimizer.config",
    "SpikeConfig": "flaxmill.train.spikes",
    "define_objective": "flaxmill.train.objectives.table",
    "train": "flaxmill.train.loop",
}


def __getattr__(name: str) -> Any:
    # On demand: the command line imports this package, and `flaxmill --help` must not wait for JAX.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
