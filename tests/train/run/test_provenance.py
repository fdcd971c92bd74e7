"""A checkpoint says what made it, and data that differ are described."""

import dataclasses
import datetime
import json

import jax
import numpy as np
import small_tokenizers

from flaxmill.data.preparation.cache import prepare
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.caches import cache_directory
from flaxmill.train.experiment import from_dict, to_dict
from flaxmill.train.run.provenance import (
    MASKS_BY_ROW,
    describe_other_data,
    describe_other_masks,
    provenance,
    tokenizer_digest,
)


def dataset_of(experiment):
    return prepare(experiment.data, experiment.objective, cache=cache_directory(), log=lambda line: None)


def test_provenance_survives_json_and_names_data_versions_and_devices(make_experiment):
    experiment = make_experiment()
    dataset = dataset_of(experiment)
    found = provenance(experiment, dataset, make_mesh(MeshConfig(data=2, fsdp=4)))
    assert json.loads(json.dumps(found)) == found
    assert found["dataset"] == dataset.fingerprint
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["mesh"] == {"data": 2, "stage": 1, "fsdp": 4, "expert": 1, "context": 1, "tensor": 1}
    assert found["num_processes"] == 1
    assert from_dict(found["config"]) == experiment
    assert datetime.datetime.fromisoformat(found["saved_at"]).tzinfo is not None


def test_the_same_data_are_no_other_data_and_imported_weights_know_none(make_experiment):
    dataset = dataset_of(make_experiment())
    assert describe_other_data({"dataset": dataset.fingerprint}, dataset) is None
    assert describe_other_data({}, dataset) is None


def test_other_text_and_another_tokenizer_are_told_apart(make_experiment):
    dataset = dataset_of(make_experiment())
    digest = tokenizer_digest(dataset.tokenizer)
    text = describe_other_data({"dataset": "f" * 64, "tokenizer": digest}, dataset)
    tokenizer = describe_other_data({"dataset": "f" * 64, "tokenizer": "0" * 64}, dataset)
    assert text is not None
    assert tokenizer is not None
    assert text.startswith("was trained on dataset ffffffffffff, but its text has changed: the")
    assert "but its tokenizer has changed" in tokenizer


def test_a_run_of_version_0_1_is_told_what_is_framed_otherwise_and_how_to_keep_it(make_experiment, tmp_path):
    (tmp_path / "a.txt").write_text("One.\n\nTwo.\n\nThree.\n\nFour.\n")
    experiment = make_experiment()
    tokenizer = str(small_tokenizers.directory_of("llama"))
    data = dataclasses.replace(experiment.data, files=(str(tmp_path / "a.txt"),), tokenizer=tokenizer)
    now = dataset_of(dataclasses.replace(experiment, data=data))
    spelled = dataset_of(dataclasses.replace(experiment, data=dataclasses.replace(data, framing="spelled")))
    old = {"dataset": spelled.fingerprint, "tokenizer": tokenizer_digest(spelled.tokenizer)}
    stored = {name: value for name, value in to_dict(experiment)["data"].items() if name != "framing"}
    text = describe_other_data(old | {"config": {"data": stored}}, now)
    assert text is not None
    assert "did not begin as the tokenizer's template says" in text
    assert "--data.framing spelled keeps that" in text
    assert describe_other_data(old | {"config": {"data": stored}}, spelled) is None


def test_a_run_with_dropout_by_batch_is_told_that_its_masks_change(make_experiment):
    without, dropping = (make_experiment("causal", model={"dropout": rate}) for rate in (0.0, 0.1))
    assert "differ from here on" in str(describe_other_masks({}, dropping))
    assert describe_other_masks({"dropout": MASKS_BY_ROW}, dropping) is None
    assert describe_other_masks({}, without) is None
