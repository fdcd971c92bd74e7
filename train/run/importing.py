"""Makes a run of a Hugging Face model: its weights are the checkpoint of step 0, where training begins."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from flaxmill.data.config import DataConfig, LabelType
from flaxmill.data.json_text import dump_json
from flaxmill.data.objectives import has_labels
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.reading import find_tokenizer
from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import Head
from flaxmill.model.huggingface.directory import load_huggingface, read_huggingface_config, read_labels
from flaxmill.model.huggingface.writing import TOKENIZER_FILES
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig, Checkpoints
from flaxmill.train.checkpoint.store import PARAMS
from flaxmill.train.experiment import Experiment
from flaxmill.train.objectives.table import objective_for
from flaxmill.train.optimizer.config import OptimizerConfig
from flaxmill.train.resolution import resolve
from flaxmill.train.run.decoding_settings import GENERATION_FILE, read_generation_settings
from flaxmill.train.run.directory import (
    CHECKPOINTS,
    IMPORTED_STEP,
    TOKENIZER_FILE,
    check_run_directory,
    open_run_directory,
    write_config,
)
from flaxmill.train.run.lock import lock_run_directory
from flaxmill.train.run.model_sources import check_import_places

HUGGINGFACE = "huggingface"
"""Folder of a run that keeps the imported model's small files, for an export to give back."""
_LABELS_OF_PROBLEM: dict[str, LabelType] = {
    "multi_label_classification": "multi_label",
    "regression": "number",
}
_LEARNING_RATE = 5e-5  # the usual peak for trained weights: the peak for fresh ones would undo them


def import_run(
    source: Path,
    run: Path,
    *,
    tokenizer: Path | None = None,
    head: Head | None = None,
    mesh_config: MeshConfig | None = None,
) -> Experiment:
    """Write the run directory; returns its experiment, which `flaxmill train --run-dir RUN` changes and runs.

    Args:
      tokenizer: a tokenizer.json or vocab.txt; None: the tokenizer of `source`, if it has one.
      head: None: what `source` names.
      mesh_config: devices that hold the weights on their way; None: one device.

    A model without a tokenizer can be exported again; training it is refused when it begins.

    Raises:
      ValueError: `source` is not a model or no objective trains it, its tokenizer does not fit it, or `run`
        is in use.
    """
    check_import_places(source, run)
    model = read_huggingface_config(source, head)
    if objective_for(model.head) is None:
        body = "lm" if model.causal else "mlm"
        raise ValueError(
            f"{source} has no head that an objective trains; give one with --head {body}, which goes on with "
            "its pretraining, or train a task from it: flaxmill train classify --init-from "
            f"{source} --data.files FILES"
        )
    found = find_tokenizer(source) if tokenizer is None else tokenizer
    loaded = None if found is None else Tokenizer.load(found)
    experiment = imported_experiment(source, model, run / TOKENIZER_FILE)
    experiment = dataclasses.replace(experiment, run_dir=str(run))
    if loaded is not None:
        experiment = resolve(experiment, loaded, experiment.data.labels)
    check_run_directory(experiment)
    mesh = make_mesh(mesh_config or MeshConfig(data=1))
    with jax.set_mesh(mesh):
        _, params = load_huggingface(source, head=head, mesh=mesh)
    open_run_directory(experiment)
    with lock_run_directory(run):
        with Checkpoints(run / CHECKPOINTS, CheckpointConfig()) as checkpoints:
            checkpoints.save(IMPORTED_STEP, {PARAMS: params}, {"imported": str(source.absolute())})
        _keep_files(source, run / HUGGINGFACE)
        # The config comes last: without it a directory that a crash left half made is not a run.
        write_config(run, experiment, loaded)
    return experiment


def imported_experiment(
    source: Path, model: ModelConfig, tokenizer: Path, lengths: Mapping[str, Any] | None = None
) -> Experiment:
    """The experiment that trains or measures the model of `source` further, on data still to be named.

    Args:
      lengths: fields of DataConfig; None: the lengths that training begins with, as far as the model reaches.
    """
    assert model.head is not None
    has_encoder = model.encoder_layers is not None
    body = "lm" if model.causal or has_encoder else "mlm"  # the head for a model without one
    objective = objective_for(model.head, has_encoder) or objective_for(body, has_encoder)
    assert objective is not None, "both heads have objectives"
    label_type = _LABELS_OF_PROBLEM.get(model.problem or "", "category")
    if label_type == "number" and model.num_classes != 1:
        raise ValueError(
            f"{source} predicts {model.num_classes} numbers at once (problem_type=regression), which no "
            "objective trains; load_huggingface in Python reads it"
        )
    if lengths is None:
        longest = DataConfig.sequence_length if model.max_positions is None else model.max_positions
        lengths = {"sequence_length": min(longest, DataConfig.sequence_length)}
    data = DataConfig(
        tokenizer=str(tokenizer.absolute()),
        **lengths,
        label_type=label_type,
    )
    if has_labels(data, objective):
        data = dataclasses.replace(data, labels=read_labels(source))
    return Experiment(
        name=source.resolve().name,
        objective=objective,
        model=model,
        data=data,
        optimizer=OptimizerConfig(learning_rate=_LEARNING_RATE),
    )


def _keep_files(source: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in (*TOKENIZER_FILES, GENERATION_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    # The config.json of an old directory says how it decodes.
    if not (folder / GENERATION_FILE).is_file() and (settings := read_generation_settings(source)):
        (folder / GENERATION_FILE).write_text(dump_json(settings) + "\n", encoding="utf-8")
