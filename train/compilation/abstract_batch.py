"""The batch of a step as shapes, for a run whose data and tokenizer are not here.

The objective's own function makes the batch, from one blank row and a tokenizer that has every special token.
So it has the arrays that training would have, also where a user defines the objective.
"""

import dataclasses
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import tokenizers
from jax.sharding import Mesh

from flaxmill.data.batches import Batches
from flaxmill.data.objectives import ObjectiveData, added_tokens, find_function, layout_of
from flaxmill.data.preparation.cache_places import stored_settings
from flaxmill.data.prepared.dataset import Dataset
from flaxmill.data.prepared.layouts import record_format
from flaxmill.data.text.held_out import Split
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.roles import Role
from flaxmill.sharding.placement import has_tokens, part_sharding
from flaxmill.train.experiment import Experiment
from flaxmill.train.input_pipeline import eval_batch_size
from flaxmill.train.run.mesh_fit import in_zigzag

_ROLES: dict[Role, str] = {
    "pad": "[PAD]",
    "unk": "[UNK]",
    "cls": "[CLS]",
    "sep": "[SEP]",
    "mask": "[MASK]",
    "eos": "</s>",
}
_SPLIT = "train"


class AbstractBatch(NamedTuple):
    """What a step reads, and the most places of a row that it predicts (None: all)."""

    arrays: dict[str, jax.ShapeDtypeStruct]
    max_predictions: int | None


def abstract_batch(experiment: Experiment, mesh: Mesh, split: Split = "train") -> AbstractBatch:
    """Names, shapes, dtypes and shardings of the batch of a training step, or of an evaluation's.

    Args:
      experiment: resolved, so that it names its labels.
    """
    batches, trains = _blank_batches(experiment), split == "train"
    size = experiment.batch_size if trains else eval_batch_size(experiment)
    row = batches.batch(0)
    if experiment.data.sources and trains:
        row["sources"] = np.zeros(1, np.int32)  # a mixture says which source gave each row
    if mesh.shape["context"] > 1 and in_zigzag(experiment):
        row["places"] = row["positions"]  # of their shape and dtype
    arrays = {
        name: jax.ShapeDtypeStruct(
            (size, *values.shape[1:]),
            values.dtype,
            sharding=part_sharding(mesh, values.ndim, has_tokens(name, values.ndim)),
        )
        for name, values in row.items()
    }
    return AbstractBatch(arrays, batches.max_predictions)


def _blank_batches(experiment: Experiment) -> Batches:
    """Batches of one row."""
    data = dataclasses.replace(experiment.data, masking="tokens", class_weights=())
    dataset = cast("Dataset", _BlankDataset(experiment))
    return Batches(
        dataset,
        _SPLIT,
        config=data,
        objective=experiment.objective,
        batch_size=1,
        seed=0,
        decoder_start_id=experiment.model.decoder_start_id,
    )


class _BlankDataset:
    """A dataset whose rows are all zeros. It has what `Batches` asks of a dataset."""

    directory = "a blank dataset"

    def __init__(self, experiment: Experiment) -> None:
        config, definition = experiment.data, experiment.definition.data
        has_encoder = experiment.definition.encoder != "none" and experiment.model.encoder_layers is not None
        self.layout = layout_of(experiment.objective, has_encoder)
        self.settings: dict[str, Any] = stored_settings(config, self.layout) | _own_settings(
            definition, experiment
        )
        self.sequence_length = self.settings["sequence_length"]
        self.tokenizer = _make_tokenizer(added_tokens(experiment.objective, config))
        self.vocab_size = self.tokenizer.vocab_size
        self.labels = self.label_names = config.labels
        self.statistics = {_SPLIT: {"num_rows": 1, "num_tokens": self.sequence_length + 1}}
        self._format = record_format(self.settings, self.vocab_size, len(self.labels))

    def read(self, split: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {field.name: np.zeros((len(rows), *field.shape), field.dtype) for field in self._format.fields}


def _own_settings(data: ObjectiveData, experiment: Experiment) -> dict[str, Any]:
    return find_function(data.settings)(experiment.data) if data.settings is not None else {}


def _make_tokenizer(added: tuple[str, ...]) -> Tokenizer:
    """A tokenizer that knows special tokens and nothing else."""
    names = [*_ROLES.values(), *added]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({name: id_ for id_, name in enumerate(names)}, unk_token="[UNK]")
    )
    inner.add_special_tokens(names)
    return Tokenizer(inner, roles={role: names.index(name) for role, name in _ROLES.items()})
