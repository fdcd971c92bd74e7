"""Training: everything that an experiment file names.

    from flaxmill.train import DataConfig, Experiment, ModelConfig, train

experiment       everything that decides what a run computes
resolution       what an experiment leaves open, filled in from its data
loop             the training loop: read this first
job              what a run is made of, opened and checked
input_pipeline   from a prepared dataset to global arrays, read ahead
step             one update of the weights
state            what training carries from step to step
recorder         a step's metrics as a row
saving           what a save writes, and the last one
evaluation       losses on held-out rows
best             the best evaluation
spikes           losses that stand out
rollback         back to a checkpoint, past the batches that led to a spike
failures         failures that end a run in one line
named_configs    the experiments in configs/, and in files of users
overrides        `--model.num-layers 12`
command_line     the program `flaxmill`
caches           where prepared data and compiled programs are kept
jax_environment  how exact float32 is, and JAX's refusals, explained
plain_paths      directories under other names, for libraries that misread theirs

objectives/     what is minimised
optimizer/      from gradients to updates
checkpoint/     checkpoints, written whole and checked when they are read
run/            a run's directory: how it begins, and how it leaves
compilation/    what a run compiles, and when
metrics/        what a run measures, and where it says so
inference/      evaluation, generation, vectors and scores; Model, for all of this in Python
parity/         `flaxmill parity`
plan/           what a run takes on hardware that is not here
report/         `flaxmill report`
verify_resume/  `flaxmill verify-resume`
doctor/         `flaxmill doctor`
harness/        `flaxmill lm-eval`
commands/       a file for each command
terminal/       what commands share that print and write for a person
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxmill.data.config import DataConfig
    from flaxmill.data.files.own_rows import define_text
    from flaxmill.data.objectives import ObjectiveData
    from flaxmill.data.source import Source
    from flaxmill.model.config import ModelConfig
    from flaxmill.sharding.mesh import MeshConfig
    from flaxmill.train.best import BestConfig
    from flaxmill.train.checkpoint.config import CheckpointConfig
    from flaxmill.train.experiment import Experiment
    from flaxmill.train.inference.evaluated import Evaluated
    from flaxmill.train.inference.model import Model
    from flaxmill.train.loop import train
    from flaxmill.train.metrics.callbacks import define_callback
    from flaxmill.train.objectives.table import Objective, define_objective
    from flaxmill.train.optimizer.config import OptimizerConfig
    from flaxmill.train.spikes import SpikeConfig

__all__ = [
    "BestConfig",
    "CheckpointConfig",
    "DataConfig",
    "Evaluated",
    "Experiment",
    "MeshConfig",
    "Model",
    "ModelConfig",
    "Objective",
    "ObjectiveData",
    "OptimizerConfig",
    "Source",
    "SpikeConfig",
    "define_callback",
    "define_objective",
    "define_text",
    "train",
]

_MODULES = {
    "BestConfig": "flaxmill.train.best",
    "CheckpointConfig": "flaxmill.train.checkpoint.config",
    "DataConfig": "flaxmill.data.config",
    "Evaluated": "flaxmill.train.inference.evaluated",
    "Experiment": "flaxmill.train.experiment",
    "MeshConfig": "flaxmill.sharding.mesh",
    "Model": "flaxmill.train.inference.model",
    "ModelConfig": "flaxmill.model.config",
    "Objective": "flaxmill.train.objectives.table",
    "ObjectiveData": "flaxmill.data.objectives",
    "OptimizerConfig": "flaxmill.train.optimizer.config",
    "Source": "flaxmill.data.source",
    "SpikeConfig": "flaxmill.train.spikes",
    "define_callback": "flaxmill.train.metrics.callbacks",
    "define_objective": "flaxmill.train.objectives.table",
    "define_text": "flaxmill.data.files.own_rows",
    "train": "flaxmill.train.loop",
}


def __getattr__(name: str) -> Any:
    # On demand: the command line imports this package, and `flaxmill --help` must not wait for JAX.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
