"""A batch is a pure function of (seed, step, row), and holds what its objective says."""

import os
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from flaxmill.data.batches import Batches
from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.prepared.dataset import open_dataset

OBJECTIVES = ("causal", "mlm", "mlm_nsp", "hybrid")
WORDS = (
    "The",
    "of",
    "a",
    "to",
    "Model",
    "weight",
    "token",
    "batch",
    "data",
    "mesh",
    "shard",
    "learn",
    "train",
    "loss",
    "step",
    "seed",
    "mask",
    "row",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rng = np.random.default_rng(1)
    directory = tmp_path_factory.mktemp("corpus")
    documents = []
    for _ in range(60):
        sentences = [
            " ".join(rng.choice(WORDS, rng.integers(3, 12))) + "." for _ in range(rng.integers(1, 20))
        ]
        documents.append("\n".join(sentences))
    (directory / "corpus.txt").write_text("\n\n".join(documents))
    return directory


def _config(corpus, objective, **fields):
    return DataConfig(
        files=(str(corpus / "corpus.txt"),),
        documents="blank_lines",
        tokenizer="wordpiece" if objective == "mlm_nsp" else "bpe",
        vocab_size=300,
        sequence_length=32,
        valid_fraction=0.1,
        **fields,
    )


def _batches(corpus, objective, split: Any = "train", batch_size=8, seed=0, **fields):
    config = _config(corpus, objective, **fields)
    dataset = prepare(config, objective, cache=corpus / "cache", log=lambda line: None)
    return Batches(
        dataset, split, config=config, objective=objective, batch_size=batch_size, seed=seed
    ), dataset


def _assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("num_hosts", [2, 4])
def test_the_rows_of_all_hosts_are_the_batch_of_one(corpus, objective, split, num_hosts):
    batches, _ = _batches(corpus, objective, split)
    share = 8 // num_hosts
    for step in (0, 1, batches.num_batches - 1, batches.num_batches, 1000):
        # Every host opens the data for itself.
        hosts = [_batches(corpus, objective, split)[0] for _ in range(num_hosts)]
        parts = [host.rows(step, n * share, (n + 1) * share) for n, host in enumerate(hosts)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        _assert_equal(joined, batches.batch(step))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_batch_does_not_depend_on_what_was_read_before(corpus, objective):
    batches, _ = _batches(corpus, objective)
    in_order = [batches.batch(step) for step in range(6)]
    again, _ = _batches(corpus, objective)
    for step in (5, 0, 3, 3, 1):
        _assert_equal(again.batch(step), in_order[step])
    other_seed, _ = _batches(corpus, objective, seed=1)
    assert (other_seed.batch(0)["tokens"] != in_order[0]["tokens"]).any()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("split", ["train", "valid"])
def test_batches_have_the_agreed_keys_shapes_and_dtypes(corpus, objective, split):
    batch = _batches(corpus, objective, split)[0].batch(0)
    rows = {"tokens", "mask", "positions", "documents", "targets", "weights"}
    extra = {"mlm_nsp": {"segments", "nsp_labels"}, "hybrid": {"causal"}}.get(objective, set())
    assert set(batch) == rows | extra
    for name, values in batch.items():
        assert values.shape == ((8,) if name in ("nsp_labels", "causal") else (8, 32))
        assert values.dtype == (np.float32 if name == "weights" else np.int32)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_tokens_and_targets_stay_below_the_vocabulary_size(corpus, objective):
    batches, dataset = _batches(corpus, objective, mask_rate=0.5)
    for step in range(20):
        batch = batches.batch(step)
        for name in ("tokens", "targets"):
            assert batch[name].min() >= 0
            assert batch[name].max() < dataset.vocab_size
        assert set(np.unique(batch["weights"])) <= {0.0, 1.0}
        assert not batch["weights"][batch["mask"] == 0].any()
        np.testing.assert_array_equal(batch["mask"], batch["documents"] > 0)


def _row_numbers(batches):
    """The stored rows of the first steps, through the permutation alone."""
    return batches._locate(np.arange(3 * batches.num_rows)).places


def test_each_epoch_covers_every_row_once_in_its_own_order(corpus):
    batches, _ = _batches(corpus, "causal")
    epochs = _row_numbers(batches).reshape(3, batches.num_rows)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(batches.num_rows))
    assert not np.array_equal(epochs[0], epochs[1])


def test_an_epoch_of_pairs_is_one_plan_and_the_plans_take_turns(corpus):
    batches, dataset = _batches(corpus, "mlm_nsp")
    ends = np.cumsum([0, *dataset.statistics["train"]["rows_per_copy"]])
    rows = _row_numbers(batches)
    for cycle in range(3):
        for begin, end in pairwise(ends.tolist()):
            epoch = rows[cycle * ends[-1] + begin : cycle * ends[-1] + end]
            assert sorted(epoch.tolist()) == list(range(begin, end))


def test_masks_of_a_row_differ_from_epoch_to_epoch(corpus):
    batches, _ = _batches(corpus, "mlm")
    located = batches._locate(np.arange(2 * batches.num_rows))
    first, second = (np.flatnonzero(located.places == 5)[n] for n in (0, 1))
    assert located.keys[first] != located.keys[second]


def test_causal_targets_are_the_next_token_of_the_same_document(corpus):
    batches, dataset = _batches(corpus, "causal", "valid", batch_size=4)
    end_id = dataset.tokenizer.end_id
    tokens = np.concatenate([batches.batch(step)["tokens"].ravel() for step in range(batches.num_batches)])
    batch = {
        name: np.concatenate([batches.batch(step)[name].ravel() for step in range(batches.num_batches)])
        for name in ("targets", "weights", "positions", "mask")
    }
    is_end = tokens == end_id
    has_weight = batch["weights"] > 0
    # Rows follow each other in the held-out split, so the next token is at the next place.
    np.testing.assert_array_equal(batch["targets"][:-1][has_weight[:-1]], tokens[1:][has_weight[:-1]])
    real = batch["mask"] > 0
    np.testing.assert_array_equal(has_weight[real][:-1], ~is_end[real][:-1])
    assert (batch["positions"][1:][real[1:] & is_end[:-1]] == 0).all()


def test_mlm_targets_are_the_originals_at_chosen_places(corpus):
    masked, dataset = _batches(corpus, "mlm", "valid")
    plain, _ = _batches(corpus, "causal", "valid")
    for step in range(masked.num_batches):
        batch, original = masked.batch(step), plain.batch(step)["tokens"]
        chosen = batch["weights"] > 0
        np.testing.assert_array_equal(batch["targets"][chosen], original[chosen])
        np.testing.assert_array_equal(batch["tokens"][~chosen], original[~chosen])
        assert not np.isin(original[chosen], list(dataset.tokenizer.special_ids)).any()
        assert chosen.sum(axis=1).max() <= masked.max_predictions


def test_masked_next_token_targets_stand_one_place_before_the_mask(corpus):
    hybrid, _ = _batches(corpus, "hybrid", "valid", causal_fraction=0.0)
    masked, _ = _batches(corpus, "mlm", "valid")
    for step in range(hybrid.num_batches):
        batch, mlm = hybrid.batch(step), masked.batch(step)
        np.testing.assert_array_equal(batch["tokens"], mlm["tokens"])
        same_document = mlm["documents"][:, 1:] == mlm["documents"][:, :-1]
        expected = mlm["weights"][:, 1:] * same_document
        np.testing.assert_array_equal(batch["weights"][:, :-1], expected)
        assert not batch["weights"][:, -1].any()
        shifted = batch["targets"][:, :-1][expected > 0]
        np.testing.assert_array_equal(shifted, mlm["targets"][:, 1:][expected > 0])


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_the_causal_share_of_the_hybrid_is_spread_evenly(corpus, fraction):
    batches, _ = _batches(corpus, "hybrid", causal_fraction=fraction)
    causal = np.concatenate([batches.batch(step)["causal"] for step in range(5)])
    assert abs(causal.cumsum() - fraction * np.arange(1, 41)).max() < 1.0
    plain = _batches(corpus, "causal")[0].batch(2)
    batch = batches.batch(2)
    rows = batch["causal"] == 1
    for name in ("tokens", "targets", "weights"):
        np.testing.assert_array_equal(batch[name][rows], plain[name][rows])


def test_pairs_have_segments_labels_and_unmasked_specials(corpus):
    batches, dataset = _batches(corpus, "mlm_nsp", mask_rate=0.4)
    tokenizer = dataset.tokenizer
    for step in range(10):
        batch = batches.batch(step)
        length = batch["mask"].sum(axis=1)
        rows = np.arange(8)
        assert (batch["tokens"][:, 0] == tokenizer.cls_id).all()
        assert (batch["tokens"][rows, length - 1] == tokenizer.sep_id).all()
        first_of_b = np.argmax(batch["segments"], axis=1)
        assert (batch["tokens"][rows, first_of_b - 1] == tokenizer.sep_id).all()
        assert (batch["segments"].sum(axis=1) + first_of_b == length).all()
        assert not np.isin(batch["targets"][batch["weights"] > 0], list(tokenizer.special_ids)).any()
        assert (batch["tokens"][batch["mask"] == 0] == tokenizer.pad_id).all()
        assert set(batch["nsp_labels"].tolist()) <= {0, 1}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_held_out_split_is_read_once_and_then_empty(corpus, objective):
    batches, dataset = _batches(corpus, objective, "valid", batch_size=5)
    steps = range(batches.num_batches + 1)
    mask = np.concatenate([batches.batch(step)["mask"] for step in steps])
    assert mask[: batches.num_rows].any(axis=1).all()
    assert not mask[batches.num_rows :].any()
    past = batches.batch(batches.num_batches)
    assert not past["weights"].any()
    assert not past["documents"].any()
    if dataset.layout == "packed":
        assert mask.sum() in (num_tokens := dataset.statistics["valid"]["num_tokens"], num_tokens - 1)


def test_a_batch_larger_than_the_data_repeats_it(corpus):
    batches, _ = _batches(corpus, "causal", batch_size=1000)
    assert batches.num_rows < 400
    assert batches.batch(0)["mask"].sum(axis=1).min() > 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files through /proc")
def test_files_stay_few_however_often_data_is_read(corpus):
    batches, dataset = _batches(corpus, "causal")
    batches.batch(0)
    before = len(os.listdir("/proc/self/fd"))
    for step in range(50):
        batches.batch(step)
    assert len(os.listdir("/proc/self/fd")) <= before
    dataset.close()
    assert len(os.listdir("/proc/self/fd")) < before
    batches.batch(0)


@pytest.mark.parametrize(
    ("objective", "fields", "words"),
    [
        ("mlm_nsp", {}, "cannot read the packed rows"),
        ("causal", {"sequence_length": 64}, "data.sequence_length=64 but"),
        ("causal", {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_a_config_that_does_not_fit_the_dataset_is_refused(corpus, objective, fields, words):
    _, dataset = _batches(corpus, "causal")
    config = replace(_config(corpus, "causal"), sequence_length=fields.get("sequence_length", 32))
    with pytest.raises(ValueError, match=words):
        Batches(
            open_dataset(dataset.directory),
            "train",
            config=config,
            objective=objective,
            batch_size=fields.get("batch_size", 2),
            seed=0,
        )


@pytest.mark.parametrize("masking", ["whole_words", "spans", "ngrams"])
@pytest.mark.parametrize("objective", ["mlm", "mlm_nsp", "hybrid"])
def test_masks_of_whole_words_depend_on_seed_step_and_row_alone(corpus, objective, masking):
    batches, dataset = _batches(corpus, objective, masking=masking)
    plain, _ = _batches(corpus, objective)
    assert plain.max_predictions == batches.max_predictions
    for step in (0, 7, 1000):
        batch = batches.batch(step)
        parts = [batches.rows(step, start, start + 2) for start in range(0, 8, 2)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        _assert_equal(joined, batch)
        predicted = batch["targets"][batch["weights"] > 0]
        if objective == "mlm":
            assert (batch["weights"].sum(axis=1) <= batches.max_predictions).all()
        if objective != "hybrid":
            assert not np.isin(predicted, list(dataset.tokenizer.special_ids)).any()
    # Words of one piece, as in this WordPiece, are the tokens.
    is_same = np.array_equal(plain.batch(0)["tokens"], batches.batch(0)["tokens"])
    assert is_same == (masking == "whole_words" and objective == "mlm_nsp")


@pytest.mark.parametrize("objective", ["mlm", "mlm_nsp"])
def test_static_masks_return_with_their_copy(corpus, objective):
    batches, dataset = _batches(corpus, objective, batch_size=1, static_masks=True, pair_copies=3)
    dynamic, _ = _batches(corpus, objective, batch_size=1, pair_copies=3)
    is_packed = dataset.layout == "packed"
    cycle = batches.num_rows * (3 if is_packed else 1)
    located, other = (made._locate(np.arange(2 * cycle)) for made in (batches, dynamic))
    np.testing.assert_array_equal(located.places, other.places)  # the order of rows is as before
    keys, before = {}, {}
    for number, (place, key) in enumerate(zip(located.places, located.keys, strict=True)):
        keys.setdefault((place, number // batches.num_rows % 3 if is_packed else 0), set()).add(key)
        before.setdefault(place, set()).add(other.keys[number])
    # A copy of a row is read twice and masked alike; another copy of it is masked otherwise.
    assert {len(found) for found in keys.values()} == {1}
    assert len(set.union(*keys.values())) == cycle
    assert {len(found) for found in before.values()} == {6 if is_packed else 2}
    place = int(located.places[0])
    again = int(np.flatnonzero(located.places[cycle:] == place)[0]) + cycle if not is_packed else None
    if again is not None:
        _assert_equal(batches.batch(0), batches.batch(again))
