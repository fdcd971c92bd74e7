"""The batch that is planned with is the batch that training reads, name by name."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.caches import cache_directory
from flaxmill.train.compilation.abstract_batch import abstract_batch
from flaxmill.train.compilation.compiled_step import resolve_without_data
from flaxmill.train.experiment import Experiment
from flaxmill.train.input_pipeline import make_train_batches, prepare_data
from flaxmill.train.named_configs import list_configs, load_config
from flaxmill.train.resolution import resolve

ROWS = 8


def small(name: str, corpus: Path) -> Experiment:
    """The named config on little text, in a small batch."""
    config = load_config(name)
    data = config.data
    if not config.definition.is_task and not config.definition.data.reads_conversations:
        data = dataclasses.replace(data, files=(str(corpus),), documents="blank_lines", vocab_size=400)
    data = dataclasses.replace(data, sequence_length=min(data.sequence_length, 128))
    model = dataclasses.replace(config.model, vocab_size=None)
    return dataclasses.replace(config, batch_size=ROWS, accumulate=1, model=model, data=data)


def described(batch: dict) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    return {name: (tuple(values.shape), np.dtype(values.dtype)) for name, values in batch.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", list_configs())
def test_the_abstract_batch_of_a_config_is_the_real_one(name, corpus):
    experiment = small(name, corpus)
    dataset = prepare_data(experiment, cache_directory(), lambda line: None)
    real = make_train_batches(dataset, resolve(experiment, dataset.tokenizer, dataset.labels))
    planned = abstract_batch(resolve_without_data(experiment), make_mesh(MeshConfig()))
    assert described(planned.arrays) == described(real.batch(0))
    assert planned.max_predictions == real.max_predictions
    dataset.close()


def test_a_batch_is_split_over_the_axes_that_have_rows(make_experiment):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    planned = abstract_batch(resolve_without_data(make_experiment()), mesh)
    shapes = {leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(planned.arrays)}
    assert shapes == {(4, 32)}


def test_a_mixture_says_which_source_gave_each_row(make_experiment):
    experiment = make_experiment()
    sources = ("prose=1:embedded:prose", "code=1:embedded:code")
    data = dataclasses.replace(experiment.data, files=(), sources=sources)
    planned = abstract_batch(
        resolve_without_data(dataclasses.replace(experiment, data=data)), make_mesh(MeshConfig())
    )
    assert planned.arrays["sources"].shape == (16,)
    assert planned.arrays["sources"].dtype == np.int32


def test_labels_that_are_vectors_have_a_place_for_each_label(make_experiment):
    experiment = make_experiment("classification")
    data = dataclasses.replace(
        experiment.data, files=(), documents="files", label_type="multi_label", labels=("a", "b", "c")
    )
    planned = abstract_batch(
        resolve_without_data(dataclasses.replace(experiment, data=data)), make_mesh(MeshConfig())
    )
    assert described(planned.arrays)["labels"] == ((16, 3), np.dtype(np.float32))
