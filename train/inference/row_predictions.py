"""The answers of a fine-tuned model for rows in memory, read as a run reads the rows of its files."""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from flaxmill.data.examples.corpus import read_examples
from flaxmill.data.json_text import dump_json
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.inference.loaded_model import LoadedModel
from flaxmill.train.inference.measured_experiment import read_experiment
from flaxmill.train.inference.other_data import OtherData
from flaxmill.train.inference.predictions import Model, Prediction, predict
from flaxmill.train.input_pipeline import make_held_out, prepare_data
from flaxmill.train.resolution import resolve

Row = Mapping[str, Any] | str


def predict_rows(model: LoadedModel, rows: Sequence[Row]) -> list[Prediction]:
    """An answer for each row, in order, as `predict` has them.

    Args:
      rows: the columns that the model was trained on, by their names in its files; those with the answers may
        be absent. A string stands for a row with the text column alone.

    Raises:
      ValueError: the model is not of a task, or a row lacks a column, or holds something else in it.
    """
    if not rows:
        return []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        other = OtherData(str(file), {}, unlabelled=True)
        experiment = read_experiment(model.source, other, {})
        if not experiment.definition.is_task:
            raise ValueError(
                f"{model.source} has objective={experiment.objective}, which answers nothing about a row; "
                "predict with a model that was fine-tuned on labelled examples"
            )
        column = experiment.data.text_column
        told = [{column: row} if isinstance(row, str) else dict(row) for row in rows]
        file.write_text("".join(f"{dump_json(row)}\n" for row in told), encoding="utf-8")
        mesh = MeshConfig(**model.mesh.shape)
        experiment = dataclasses.replace(experiment, mesh=mesh)
        # What is made of these rows is of no use to anyone later.
        dataset = prepare_data(experiment, Path(folder), lambda line: None)
        if model.experiment is None:
            experiment = resolve(experiment, dataset.tokenizer, dataset.labels)
        examples = list(read_examples(experiment.data, experiment.objective, "valid"))
        batches = make_held_out(dataset, experiment).first
        with jax.set_mesh(model.mesh):
            answering = Model(experiment, model.params, model.mesh, dataset.tokenizer)
            return predict(answering, batches, examples)
