"""A corpus with planted copies is prepared without them, and its card says what was found."""

import dataclasses
import errno
import json
import shutil
import sys

import numpy as np
import pytest

from flaxmill.data.card import describe_dataset
from flaxmill.data.config import DataConfig
from flaxmill.data.preparation import encoding, groups, parts
from flaxmill.data.preparation.cache import finish_shards, prepare, prepare_shard
from flaxmill.data.preparation.groups import MachineShard
from flaxmill.data.preparation.means import Means
from flaxmill.data.preparation.work_directory import UnfinishedError

NUM_TEXTS = 40


def some_text(seed: int, num_words: int = 120) -> str:
    return " ".join(f"w{word}" for word in np.random.default_rng(seed).integers(0, 10_000, num_words))


TEXTS = [some_text(seed) for seed in range(NUM_TEXTS)]
HELD_OUT = [some_text(100 + seed) for seed in range(8)]
NEAR = [text.replace(text.split()[60], "changed") for text in TEXTS[:3]]
# Copies of two texts and of a held-out one, a blank, three near copies, held-out text inside another.
TRAIN = [*TEXTS, *TEXTS[5:7], HELD_OUT[0], "", *NEAR, f"{some_text(200)} {HELD_OUT[1]} {some_text(201)}"]
VALID = [*HELD_OUT, HELD_OUT[7]]


@pytest.fixture
def config_of(tmp_path):
    for name, texts in (("train", TRAIN), ("valid", VALID)):
        rows = [json.dumps({"text": text}) + "\n" for text in texts]
        (tmp_path / f"{name}-0.jsonl").write_text("".join(rows[: len(rows) // 2]))
        (tmp_path / f"{name}-1.jsonl").write_text("".join(rows[len(rows) // 2 :]))

    def make(**fields) -> DataConfig:
        return DataConfig(
            **{
                "files": (f"{tmp_path}/train-*.jsonl",),
                "valid_files": (f"{tmp_path}/valid-*.jsonl",),
                "tokenizer": "bytes",
                "sequence_length": 64,
            }
            | fields
        )

    return make


def make(config, tmp_path, objective="causal", **arguments):
    return prepare(config, objective, cache=tmp_path / "cache", log=lambda line: None, **arguments)


def counts(dataset, split):
    names = ("num_documents", "num_duplicates", "num_near_duplicates", "num_dropped")
    return {name: dataset.statistics[split][name] for name in names if name in dataset.statistics[split]}


@pytest.mark.parametrize(
    ("choice", "train", "valid"),
    [
        ("keep", (47, 3, None, None), (9, 1, None, None)),
        ("report", (47, 3, 3, None), (9, 1, 0, None)),
        ("drop_exact", (44, 3, None, 3), (8, 1, None, 1)),
        ("drop_near", (41, 3, 3, 6), (8, 1, 0, 1)),
    ],
)
def test_planted_copies_are_counted_or_dropped(choice, train, valid, config_of, tmp_path):
    dataset = make(config_of(duplicates=choice), tmp_path)
    for split, expected in (("train", train), ("valid", valid)):
        names = ("num_documents", "num_duplicates", "num_near_duplicates", "num_dropped")
        expected = {name: count for name, count in zip(names, expected, strict=True) if count is not None}
        assert counts(dataset, split) == expected
    assert dataset.statistics["valid"]["num_checked"] == valid[0]


def test_the_rows_are_those_of_the_texts_that_are_kept(config_of, tmp_path):
    kept = [text for number, text in enumerate(TRAIN) if text and number not in (40, 41, 42, 44, 45, 46)]
    (tmp_path / "kept.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in kept))
    dropped = make(config_of(duplicates="drop_near"), tmp_path)
    alone = make(config_of(files=(f"{tmp_path}/kept.jsonl",)), tmp_path)
    assert rows_of(dropped, "train") == rows_of(alone, "train")


def rows_of(dataset, split):
    rows = dataset.read(split, np.arange(dataset.statistics[split]["num_rows"]))
    return {name: values.tobytes() for name, values in rows.items()}


def test_held_out_text_inside_a_training_document_is_found(config_of, tmp_path):
    statistics = make(config_of(duplicates="drop_near"), tmp_path).statistics["valid"]
    assert statistics["num_contaminated"] == 1
    num_tokens = statistics["num_tokens"] - statistics["num_documents"]  # without end tokens
    assert statistics["contaminated_tokens"] == pytest.approx(len(HELD_OUT[1]) / num_tokens, rel=1e-3)
    kept = make(config_of(), tmp_path).statistics["valid"]
    assert kept["num_contaminated"] == 2


@pytest.mark.slow
def test_the_dataset_is_the_same_whatever_parts_processes_and_machines_make_it(
    config_of, tmp_path, monkeypatch
):
    config = config_of(duplicates="drop_near", packing="best_fit")
    made = make(config, tmp_path)
    expected = [rows_of(made, "train"), rows_of(made, "valid"), made.statistics, made.fingerprint]
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(parts, "PART_CHARACTERS", 2000)
    divided = make(config, tmp_path, means=Means(num_workers=2))
    found = [rows_of(divided, "train"), rows_of(divided, "valid"), divided.statistics, divided.fingerprint]
    assert found == expected
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(groups, "GROUP_BYTES", 2000)
    arguments = {"cache": tmp_path / "cache", "log": lambda line: None}
    for index in (1, 2):
        prepare_shard(config, "causal", MachineShard(index, 2), **arguments)
    shared = finish_shards(config, "causal", **arguments)
    found = [rows_of(shared, "train"), rows_of(shared, "valid"), shared.statistics, shared.fingerprint]
    assert found == expected


def test_an_unfinished_preparation_goes_on_and_its_damage_is_named(config_of, tmp_path, monkeypatch):
    config = config_of(duplicates="drop_near")
    made = make(config, tmp_path / "whole")
    monkeypatch.setattr(parts, "PART_CHARACTERS", 2000)
    sign, signed = encoding.sign, []

    def fail_at_the_fifth(texts):
        signed.append(texts)
        if len(signed) == 5:
            raise OSError(errno.EINTR, "stopped")
        return sign(texts)

    monkeypatch.setattr(encoding, "sign", fail_at_the_fifth)
    with pytest.raises(OSError, match="stopped"):
        make(config, tmp_path)
    (first, *_) = sorted((tmp_path / "cache").rglob("*.signatures.npy"))
    whole = first.read_bytes()
    first.write_bytes(whole[:200])
    with pytest.raises(UnfinishedError, match=r"signatures\.npy is damaged .*delete"):
        make(config, tmp_path)
    first.write_bytes(whole)
    resumed = make(config, tmp_path)
    assert len(signed) == len({tuple(texts) for texts in signed}) + 1  # only the fifth was signed again
    assert rows_of(resumed, "train") == rows_of(made, "train")
    assert resumed.statistics == made.statistics


def test_sentence_pairs_are_made_of_the_documents_that_are_kept(config_of, tmp_path):
    fields = {"tokenizer": "wordpiece", "vocab_size": 300, "pair_task": "next"}
    kept = make(config_of(**fields), tmp_path, "mlm_nsp")
    dropped = make(config_of(duplicates="drop_near", **fields), tmp_path, "mlm_nsp")
    assert kept.statistics["train"]["num_documents"] - dropped.statistics["train"]["num_documents"] == 6
    assert dropped.statistics["valid"]["num_contaminated"] == 1
    assert dropped.statistics["valid"]["num_checked"] == 8


def test_documents_of_token_ids_are_compared_by_their_texts(config_of, tmp_path):
    tokenizer = make(config_of(), tmp_path).tokenizer
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(tmp_path / "tokenizer" / "tokenizer.json")
    ids = [{"ids": tokenizer.encode(text)} for text in TRAIN if text]
    (tmp_path / "ids.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ids))
    config = config_of(
        files=(f"{tmp_path}/ids.jsonl",),
        valid_files=(),
        text_column="ids",
        tokenizer=str(tmp_path / "tokenizer"),
        duplicates="report",
    )
    dataset = make(config, tmp_path)
    found = [counts(dataset, split) for split in ("train", "valid")]
    assert sum(of_one["num_duplicates"] for of_one in found) == 2
    assert sum(of_one["num_near_duplicates"] for of_one in found) == 3


def test_the_card_says_what_was_dropped(config_of, tmp_path):
    text = describe_dataset(make(config_of(duplicates="drop_near"), tmp_path))
    assert "  6 documents dropped: 3 exact duplicates, 3 near duplicates\n" in text
    assert (
        "of the tokens are in runs of 52 that training text holds too; in 1 of 8 documents 80% or more\n"
        in text
    )


def test_text_that_is_both_trained_on_and_held_out_is_not_called_contaminated(config_of, tmp_path):
    files = (f"{tmp_path}/train-*.jsonl",)
    statistics = make(config_of(files=files, valid_files=files), tmp_path).statistics
    assert "num_duplicates" not in statistics["train"]
    assert "num_checked" not in statistics["valid"]
    with pytest.raises(ValueError, match=r"^data\.duplicates=drop_exact drops every training document"):
        make(config_of(files=files, valid_files=files, duplicates="drop_exact"), tmp_path)


def test_a_corpus_of_one_document_is_measured(config_of, tmp_path):
    (tmp_path / "one.txt").write_text("The same words again and again. " * 60)
    statistics = make(config_of(files=(f"{tmp_path}/one.txt",), valid_files=()), tmp_path).statistics
    assert statistics["valid"]["num_checked"] == 1
    assert statistics["valid"]["contaminated_tokens"] > 0.9


def test_a_missing_library_is_said_before_a_vocabulary_is_trained(config_of, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    config = config_of(duplicates="report", tokenizer="bpe")
    with pytest.raises(ValueError, match=r"`pip install 'flaxmill\[duplicates\]'`"):
        make(config, tmp_path)
    assert not list((tmp_path / "cache").rglob("tokenizer.json"))
    make(dataclasses.replace(config, duplicates="drop_exact"), tmp_path)


def test_labelled_examples_are_refused(config_of, tmp_path):
    with pytest.raises(ValueError, match=r"^data\.duplicates=report looks for equal documents of text"):
        make(config_of(duplicates="report"), tmp_path, "classification")
