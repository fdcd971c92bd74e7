"""Padded rows of whole documents or sentences are datasets like any other, for every objective of text."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_tokenizers import directory_of

from flaxmill.data.batches import Batches
from flaxmill.data.card import describe_dataset
from flaxmill.data.config import DataConfig
from flaxmill.data.examples.framing import document_frame
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.preparation.cache_places import stored_settings

LENGTH = 64


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def config_of(corpus, **fields) -> DataConfig:
    defaults: dict[str, Any] = dict(documents="blank_lines", vocab_size=400, sequence_length=LENGTH)
    defaults["packing"] = "best_fit"
    return DataConfig(files=(str(corpus),), **defaults | fields)


def prepare_quietly(config, objective, cache):
    has_encoder = objective == "span_corruption"
    return prepare(config, objective, cache=cache, log=lambda line: None, has_encoder=has_encoder)


def real_tokens(dataset, split="valid"):
    """The tokens of a split's rows, without padding and without the last place, which is only a target."""
    stored = dataset.read(split, np.arange(dataset.statistics[split]["num_rows"]))
    tokens, length = stored["tokens"], dataset.sequence_length
    sizes = stored["length"] if "length" in stored else np.full(len(tokens), length)
    return tokens[:, :length][np.arange(length) < sizes[:, None]]


@pytest.mark.parametrize("objective", ["causal", "mlm", "hybrid", "prefix_lm", "span_corruption"])
@pytest.mark.parametrize("packing", ["best_fit", "full_sentences"])
def test_every_objective_of_text_reads_padded_rows(corpus, cache, objective, packing):
    config = config_of(corpus, packing=packing)
    dataset = prepare_quietly(config, objective, cache)
    num_rows = dataset.statistics["train"]["num_rows"]
    batches = Batches(dataset, "train", config=config, objective=objective, batch_size=num_rows, seed=1)
    batch, part = batches.batch(3), batches.rows(3, 7, 19)
    for name, values in batch.items():
        np.testing.assert_array_equal(part[name], values[7:19])
    assert 0 < batch["mask"].sum() < batch["mask"].size
    assert (np.diff(batch["mask"], axis=1) <= 0).all()  # padding is on the right
    reads = batch["decoder_mask"] if objective == "span_corruption" else batch["mask"]
    assert not batch["weights"][reads == 0].any()
    assert (batch["weights"].sum(axis=1) > 0).mean() > 0.9


def test_no_token_is_lost_whatever_the_packing(corpus, cache):
    counts = []
    for packing in ("concatenate", "best_fit", "first_fit", "full_sentences"):
        dataset = prepare_quietly(config_of(corpus, packing=packing, tokenizer="bytes"), "causal", cache)
        found = real_tokens(dataset)
        statistics = dataset.statistics["valid"]
        counts.append(np.bincount(found[: statistics["num_tokens"]], minlength=258))
        if packing != "concatenate":
            assert len(found) == statistics["num_tokens"]
            assert statistics["fill"] == len(found) / (statistics["num_rows"] * LENGTH)
            assert f"{statistics['fill']:.1%} of the places hold a token" in describe_dataset(dataset)
    for other in counts[1:]:
        np.testing.assert_array_equal(other, counts[0])


@pytest.mark.parametrize("name", ["trained", "gpt2", "llama"])
def test_full_sentences_are_the_tokens_of_the_whole_text(corpus, cache, tmp_path, name):
    fields = {} if name == "trained" else {"tokenizer": str(directory_of(name) / "tokenizer.json")}
    text = tmp_path / "text.txt"
    text.write_text(
        "\n\n".join(["He said no. Then the quick brown fox left. Why?", "Who wrote that? A dog."] * 9)
    )
    config = config_of(text, packing="full_sentences", **fields)
    config = replace(config, documents="files", valid_files=(str(corpus),))
    sentences = real_tokens(prepare_quietly(config, "causal", tmp_path), "train")
    whole = real_tokens(prepare_quietly(replace(config, packing="best_fit"), "causal", tmp_path), "train")
    np.testing.assert_array_equal(sentences, whole)


def test_a_document_of_one_sentence_begins_and_ends_as_any_other(corpus, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(["Why?", "A dog.", "The quick brown fox left."] * 9))
    tokenizer = str(directory_of("llama") / "tokenizer.json")
    config = config_of(text, packing="full_sentences", tokenizer=tokenizer, valid_files=(str(corpus),))
    dataset = prepare_quietly(config, "causal", tmp_path)
    before, after = document_frame(dataset.tokenizer, config.framing)
    assert before
    tokens = real_tokens(dataset, "train")
    assert (tokens == before[0]).sum() == 27
    starts = np.flatnonzero(tokens == before[0])
    if after:
        np.testing.assert_array_equal(tokens[starts[1:] - 1], after[-1])


def test_rows_of_full_sentences_end_at_sentences(corpus, cache):
    config = config_of(corpus, packing="full_sentences", sequence_length=256)
    dataset = prepare_quietly(config, "causal", cache)
    lines = {line.strip() for line in corpus.read_text().splitlines()}
    stored = dataset.read("valid", np.arange(dataset.statistics["valid"]["num_rows"]))
    num_checked = 0
    for tokens, length in zip(stored["tokens"], stored["length"], strict=True):
        if length < 256:  # a sentence as long as a row may be torn
            text = dataset.tokenizer.decode(tokens[:length])
            assert text.split("\n")[-1].strip() in lines
            num_checked += 1
    assert num_checked > 20


def test_packing_names_a_dataset_only_where_it_makes_one(corpus, cache):
    plain = config_of(corpus, packing="concatenate")
    assert "packing" not in stored_settings(plain, "packed")
    assert stored_settings(replace(plain, packing="best_fit"), "packed")["packing"] == "best_fit"
    assert "packing" not in stored_settings(replace(plain, packing="best_fit"), "pairs")
    made = [prepare_quietly(replace(plain, packing=p), "causal", cache) for p in ("concatenate", "best_fit")]
    assert made[0].fingerprint != made[1].fingerprint
    assert "fill" not in made[0].statistics["train"]
