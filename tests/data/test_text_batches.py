"""A prefix is read and not predicted; after it a row is causal."""

import numpy as np
import pytest

from flaxmill.data.batches import Batches
from flaxmill.data.config import DataConfig
from flaxmill.data.objectives import OBJECTIVE_DATA
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.text.held_out import Split
from flaxmill.data.text_batches import causal


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory):
    files = (str(corpus),)
    config = DataConfig(files=files, documents="blank_lines", vocab_size=400, sequence_length=32)
    return config, prepare(config, "prefix_lm", cache=tmp_path_factory.mktemp("cache"))


def batches_of(prepared, objective, split: Split = "train", batch_size=64):
    config, dataset = prepared
    return Batches(dataset, split, config=config, objective=objective, batch_size=batch_size, seed=3)


def test_only_what_follows_the_prefix_is_predicted(prepared):
    found, causal = (batches_of(prepared, name).batch(2) for name in ("prefix_lm", "causal"))
    behind = np.arange(1, 33) >= found["prefix"][:, None]
    np.testing.assert_array_equal(found["weights"], causal["weights"] * behind)
    np.testing.assert_array_equal(found["targets"], causal["targets"] * (found["weights"] > 0))
    for name in ("tokens", "mask", "positions", "documents"):
        np.testing.assert_array_equal(found[name], causal[name])


def test_a_prefix_is_any_part_of_a_row_but_never_all_of_it(prepared):
    prefixes = np.concatenate([batches_of(prepared, "prefix_lm").batch(step)["prefix"] for step in range(60)])
    assert prefixes.min() == 1
    assert prefixes.max() == 31
    counts = np.bincount(prefixes, minlength=32)[1:]
    expected = len(prefixes) / 31
    # Chi-square with 30 degrees of freedom exceeds 59.7 once in a thousand.
    assert ((counts - expected) ** 2 / expected).sum() < 59.7


def test_rows_beyond_the_end_have_no_prefix(prepared):
    batches = batches_of(prepared, "prefix_lm", "valid", batch_size=50)
    last = batches.batch(batches.num_batches - 1)
    exists = np.arange((batches.num_batches - 1) * 50, batches.num_batches * 50) < batches.num_rows
    np.testing.assert_array_equal(last["prefix"] > 0, exists)


def test_a_causal_dataset_serves_a_prefix_too(prepared, corpus, tmp_path):
    config, dataset = prepared
    assert prepare(config, "causal", cache=tmp_path).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_any_width_stay_floats(prepared, monkeypatch, dtype):
    """As a user's own function of batches may return them."""
    own = OBJECTIVE_DATA["causal"]._replace(
        batch=lambda rows: causal(rows) | {"share": np.full(8, 0.25, dtype)}
    )
    monkeypatch.setitem(OBJECTIVE_DATA, "causal", own)
    batch = batches_of(prepared, "causal", batch_size=8).batch(0)
    assert batch["share"].dtype == np.float32
    assert set(batch["share"]) == {0.25}
    assert batch["weights"].dtype == np.float32
