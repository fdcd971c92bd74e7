"""Span corruption has t5's lengths and split into spans, and its targets give the text back."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from flaxmill.data.batches import Batches
from flaxmill.data.config import DataConfig
from flaxmill.data.corruption.span_corruption import noise_mask, row_settings, span_lengths, target_length
from flaxmill.data.draws import bits
from flaxmill.data.objectives import SENTINELS
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.text.held_out import Split


def row_keys(number):
    return bits(7, np.arange(number))


@pytest.fixture(scope="module")
def config(corpus):
    files, blanks = (str(corpus),), "blank_lines"
    return DataConfig(files=files, documents=blanks, vocab_size=400, sequence_length=64)


@pytest.fixture(scope="module")
def dataset(config, tmp_path_factory):
    return prepare(config, "span_corruption", cache=tmp_path_factory.mktemp("cache"), has_encoder=True)


def batches_of(dataset, config, split: Split = "train", batch_size=8, seed=3):
    return Batches(
        dataset, split, config=config, objective="span_corruption", batch_size=batch_size, seed=seed
    )


@pytest.mark.parametrize(
    ("sequence_length", "mask_rate", "mean_span_length", "text", "target"),
    [
        (512, 0.15, 3.0, 568, 114),  # T5's own pretraining (Raffel et al. 2020, 3.1.4)
        (1024, 0.15, 3.0, 1137, 229),
        (8, 0.5, 1.0, 7, 8),  # inputs and targets both fit in 8
    ],
)
def test_the_lengths_are_those_of_t5(sequence_length, mask_rate, mean_span_length, text, target):
    config = DataConfig(
        sequence_length=sequence_length, mask_rate=mask_rate, mean_span_length=mean_span_length
    )
    lengths = span_lengths(config)
    assert (lengths.text, lengths.target) == (text, target)
    assert lengths.inputs <= sequence_length
    assert target_length(config) == target
    assert row_settings(config) == {"sequence_length": text}


@pytest.mark.parametrize("sequence_length", [8, 9, 64, 100, 511])
@pytest.mark.parametrize("mask_rate", [0.05, 0.15, 0.5, 0.9])
def test_no_longer_text_would_fit(sequence_length, mask_rate):
    config = DataConfig(sequence_length=sequence_length, mask_rate=mask_rate)
    text = span_lengths(config).text
    assert text >= sequence_length - 1

    def inputs(size):
        noise = min(max(round(size * mask_rate), 1), size - 1)
        return size - noise + max(1, min(round(noise / 3), size - noise)) + 1

    assert inputs(text) <= sequence_length
    assert mask_rate == 0.5 or inputs(text + 1) > sequence_length


def test_spans_have_the_share_and_the_mean_length_asked_for():
    mask = noise_mask(row_keys(200), 568, DataConfig(sequence_length=512))
    assert (mask.sum(1) == 85).all()  # round(0.15 x 568)
    begins = (mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1]).sum(1)
    assert (begins == 28).all()  # round(85 / 3)
    assert not mask[:, 0].any()  # text comes first
    assert mask[:, -1].all()


def test_every_split_into_spans_is_equally_likely():
    # 4 of 9 tokens in 2 spans: 3 ways to split the noise, 4 to split the text, so 12 masks.
    config = DataConfig(mask_rate=0.45, mean_span_length=2.0)
    counts = Counter(row.tobytes() for row in noise_mask(row_keys(12_000), 9, config))
    assert len(counts) == 12
    expected = 12_000 / 12
    # Chi-square with 11 degrees of freedom exceeds 31.3 once in a thousand.
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 31.3


def restore(inputs, targets, sentinels):
    """The text of one row: each sentinel of the inputs is replaced by its span in the targets."""
    spans, current = {}, None
    for token in targets:
        if token in sentinels:
            current = token
            spans[current] = []
        else:
            spans[current].append(token)
    text = []
    for token in inputs:
        text += spans.pop(token) if token in sentinels else [token]
    assert not spans
    return text


def test_targets_give_back_what_the_inputs_lack(dataset, config):
    batches = batches_of(dataset, config)
    tokenizer = dataset.tokenizer
    sentinels = [tokenizer.inner.token_to_id(name) for name in SENTINELS]
    stored = dataset.read("train", batches._locate(np.arange(8)).places)["tokens"]
    batch = batches.batch(0)
    for row in range(8):
        inputs = batch["tokens"][row][batch["mask"][row] > 0].tolist()
        targets = batch["targets"][row][batch["weights"][row] > 0].tolist()
        assert inputs.pop() == targets.pop() == tokenizer.closing_id
        used = [token for token in inputs if token in sentinels]
        assert used == sentinels[: len(used)]  # in order, from the first
        assert restore(inputs, targets, set(sentinels)) == stored[row, : dataset.sequence_length].tolist()


def test_the_decoder_reads_its_targets_one_place_later(dataset, config):
    batch = batches_of(dataset, config).batch(0)
    real = batch["decoder_mask"] > 0
    np.testing.assert_array_equal(
        batch["decoder_tokens"][:, 1:][real[:, 1:]], batch["targets"][:, :-1][real[:, 1:]]
    )
    assert set(batch["decoder_tokens"][:, 0]) == {dataset.tokenizer.closing_id}  # it has no pad token
    np.testing.assert_array_equal(real, batch["weights"] > 0)


def test_a_batch_follows_from_the_seed_and_the_step_alone(dataset, config):
    first, again = (batches_of(dataset, config).batch(5) for _ in range(2))
    parts = [batches_of(dataset, config).rows(5, start, start + 4) for start in (0, 4)]
    other = batches_of(dataset, config, seed=4).batch(5)
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values)
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)
    assert any((other[name] != first[name]).any() for name in first)


def test_each_epoch_corrupts_a_row_differently(dataset, config):
    batches = batches_of(dataset, config, batch_size=1)
    places = batches._locate(np.arange(2 * batches.num_rows)).places
    first, second = np.flatnonzero(places == 3).tolist()
    assert (batches.batch(first)["tokens"] != batches.batch(second)["tokens"]).any()


def test_the_last_row_of_a_split_may_be_short(dataset, config):
    batches = batches_of(dataset, config, "valid", batch_size=4)
    last = batches.batch(batches.num_batches - 1)
    row = (batches.num_rows - 1) % 4
    num_tokens = dataset.statistics["valid"]["num_tokens"] - (batches.num_rows - 1) * dataset.sequence_length
    assert 0 < num_tokens < dataset.sequence_length
    inputs, targets = int(last["mask"][row].sum()), int(last["weights"][row].sum())
    num_spans = sum(token >= dataset.vocab_size - len(SENTINELS) for token in last["targets"][row])
    assert inputs + targets == num_tokens + 2 * num_spans + 2
    assert last["mask"][row + 1 :].sum() == 0


def test_a_trained_tokenizer_gets_the_sentinels_after_its_vocabulary(dataset):
    assert dataset.vocab_size == 500
    ids = [dataset.tokenizer.inner.token_to_id(name) for name in SENTINELS]
    assert ids == list(range(400, 500))
    assert set(ids) <= dataset.tokenizer.special_ids


def test_a_tokenizer_without_sentinels_is_refused_by_name(config, dataset, tmp_path):
    causal = prepare(config, "causal", cache=tmp_path)
    config = replace(config, tokenizer=str(causal.directory / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"^objective=span_corruption needs the tokens <extra_id_0>, which"):
        prepare(config, "span_corruption", cache=tmp_path, has_encoder=True)


def test_more_spans_than_sentinels_are_refused():
    config = DataConfig(sequence_length=2048, mean_span_length=2.0)
    with pytest.raises(
        ValueError, match=r"makes 166 spans a row, and there are 100 sentinels; raise data.mean"
    ):
        row_settings(config)
