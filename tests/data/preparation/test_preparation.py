"""Preparation is repeatable, atomic and cached: done once, whoever starts it and wherever it is cut off."""

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.prepared.dataset import open_dataset
from flaxmill.data.prepared.manifest import MANIFEST

WORDS = (
    "the",
    "of",
    "a",
    "to",
    "model",
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


def _write_corpus(directory, num_documents=30):
    rng = np.random.default_rng(0)
    directory.mkdir(parents=True, exist_ok=True)
    documents = []
    for _ in range(num_documents):
        sentences = [" ".join(rng.choice(WORDS, rng.integers(3, 12))) + "." for _ in range(12)]
        documents.append("\n".join(sentences))
    (directory / "corpus.txt").write_text("\n\n".join(documents) + "\n")
    return (str(directory / "corpus.txt"),)


def _config(directory, **fields):
    defaults = {"documents": "blank_lines", "vocab_size": 300, "sequence_length": 32}
    return DataConfig(files=_write_corpus(directory), **(defaults | fields))


def _prepare(config, objective, cache, lines=None):
    return prepare(config, objective, cache=cache, log=[].append if lines is None else lines.append)


def _shard_bytes(dataset):
    return {path.name: path.read_bytes() for path in sorted(dataset.directory.glob("*.array_record*"))}


@pytest.mark.parametrize(("objective", "tokenizer"), [("causal", "bpe"), ("mlm_nsp", "wordpiece")])
def test_two_preparations_are_equal_whatever_the_paths(tmp_path, objective, tokenizer):
    first = _prepare(_config(tmp_path / "a", tokenizer=tokenizer), objective, tmp_path / "cache_a")
    second = _prepare(_config(tmp_path / "b", tokenizer=tokenizer), objective, tmp_path / "cache_b")
    assert first.fingerprint == second.fingerprint
    assert _shard_bytes(first) == _shard_bytes(second)
    assert len(_shard_bytes(first)) >= 2
    assert first.statistics == second.statistics


def test_the_fingerprint_knows_text_tokenizer_and_settings(tmp_path):
    config = _config(tmp_path / "a")
    variants = [
        config,
        replace(config, tokenizer="bytes"),
        replace(config, sequence_length=16),
        replace(config, seed=1),
        replace(config, files=_write_corpus(tmp_path / "b", 31)),
    ]
    fingerprints = {_prepare(variant, "causal", tmp_path / "cache").fingerprint for variant in variants}
    assert len(fingerprints) == len(variants)


def test_the_fingerprint_knows_a_loaded_tokenizer_by_its_content(tmp_path):
    fingerprints = []
    for name, extra in (("a", ""), ("b", ""), ("c", "unused\n")):
        vocabulary = tmp_path / name / "vocab.txt"
        config = _config(tmp_path / name, tokenizer=str(vocabulary))
        vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n" + "\n".join(WORDS) + f"\n.\n{extra}")
        fingerprints.append(_prepare(config, "mlm_nsp", tmp_path / "cache").fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_a_warm_start_reads_no_text(tmp_path, monkeypatch):
    config = _config(tmp_path / "a")
    cold = _prepare(config, "causal", tmp_path / "cache")
    monkeypatch.setattr("flaxmill.data.text.corpora.read_text", lambda *_: pytest.fail("the text was read"))
    lines = []
    warm = _prepare(config, "causal", tmp_path / "cache", lines)
    assert (warm.directory, lines) == (cold.directory, [])


def test_settings_of_reading_share_a_dataset(tmp_path):
    config = _config(tmp_path / "a")
    directories = {
        _prepare(variant, objective, tmp_path / "cache").directory
        for variant, objective in [
            (config, "causal"),
            (config, "mlm"),
            (replace(config, mask_rate=0.3), "hybrid"),
            (replace(config, causal_fraction=0.9, pair_copies=9, short_pair_probability=0.5), "hybrid"),
        ]
    }
    assert len(directories) == 1


def test_changed_text_is_prepared_again(tmp_path):
    config = _config(tmp_path / "a")
    before = _prepare(config, "causal", tmp_path / "cache")
    path = Path(config.files[0])
    path.write_text(path.read_text() + "\nmore text.\n")
    after = _prepare(config, "causal", tmp_path / "cache")
    assert after.directory != before.directory
    assert after.fingerprint != before.fingerprint


def test_statistics_count_the_corpus(tmp_path):
    config = _config(tmp_path / "a", tokenizer="bytes")
    statistics = _prepare(config, "causal", tmp_path / "cache").statistics
    documents = Path(config.files[0]).read_text().strip("\n").split("\n\n")
    assert sum(split["num_documents"] for split in statistics.values()) == len(documents)
    for split in statistics.values():
        # A document's bytes and line end are tokens, and so is its end token.
        assert split["num_tokens"] == split["num_bytes"] + split["num_documents"]
        assert split["num_rows"] == -(-(split["num_tokens"] - 1) // 32)
    assert 0 < statistics["valid"]["bigram_entropy"] < statistics["valid"]["unigram_entropy"] < np.log(258)


def test_the_majority_share_of_pairs_is_that_of_the_labels(tmp_path):
    dataset = _prepare(_config(tmp_path / "a", tokenizer="wordpiece"), "mlm_nsp", tmp_path / "cache")
    valid = dataset.statistics["valid"]
    labels = dataset.read("valid", np.arange(valid["num_rows"]))["label"]
    assert valid["nsp_majority"] == pytest.approx(max(labels.mean(), 1 - labels.mean()))
    train = dataset.statistics["train"]
    assert len(train["rows_per_copy"]) == 4
    assert sum(train["rows_per_copy"]) == train["num_rows"]


def _prepare_in_process(config, cache, before=""):
    code = (
        "import os, signal, time\nfrom pathlib import Path\n"
        "from flaxmill.data.preparation import cache, finishing, making\n"
        "from flaxmill.data.config import DataConfig\n"
        f"{before}\n"
        f"cache.prepare({config!r}, 'causal', cache=Path({str(cache)!r}))"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_preparation_is_never_taken_for_a_whole_one(tmp_path):
    config, cache = _config(tmp_path / "a"), tmp_path / "cache"
    # Killed when every shard is written and only the manifest is missing.
    kill = "finishing.hash_file = lambda path: os.kill(os.getpid(), signal.SIGKILL)"
    killed = _prepare_in_process(config, cache, kill)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    work, leftover = sorted((cache / "data").glob(".*.partial"), key=lambda path: len(path.name))
    assert list(work.glob("rows/*.array_record"))
    assert list(leftover.glob("*.array_record*"))
    with pytest.raises(ValueError, match="not a prepared dataset"):
        open_dataset(leftover)

    dataset = _prepare(config, "causal", cache)
    assert dataset.statistics["train"]["num_rows"] > 0
    assert not list((cache / "data").glob(".*.partial"))


def test_a_directory_without_a_manifest_is_replaced(tmp_path):
    config, cache = _config(tmp_path / "a"), tmp_path / "cache"
    first = _prepare(config, "causal", cache)
    (first.directory / MANIFEST).unlink()
    assert _prepare(config, "causal", cache).fingerprint == first.fingerprint


@pytest.mark.parametrize("damage", ["truncate", "delete", "tokenizer", "version", "list", "keys", "deep"])
def test_a_damaged_dataset_is_noticed_and_prepared_again(tmp_path, damage):
    config, cache = _config(tmp_path / "a"), tmp_path / "cache"
    whole = _prepare(config, "causal", cache)
    expected = _shard_bytes(whole)
    shard = next(whole.directory.glob("flaxmill-train*"))
    if damage == "truncate":
        os.truncate(shard, shard.stat().st_size - 1)
    elif damage == "delete":
        shard.unlink()
    elif damage in ("list", "keys", "deep"):
        text = {"list": "[]", "keys": '{"format_version": 1}', "deep": "[" * 100_000}[damage]
        (whole.directory / MANIFEST).write_text(text)
    elif damage == "tokenizer":
        (whole.directory / "tokenizer.json").write_text("{}")
    else:
        manifest = whole.directory / MANIFEST
        manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 0'))
    lines = []
    assert _shard_bytes(_prepare(config, "causal", cache, lines)) == expected
    assert "prepare" in lines[0]


@pytest.mark.slow
def test_two_processes_at_once_both_end_well(tmp_path):
    config, cache = _config(tmp_path / "a"), tmp_path / "cache"
    slow = (
        "make = making.build_dataset\nmaking.build_dataset = lambda *a, **k: (time.sleep(1), make(*a, **k))"
    )
    processes = [_prepare_in_process(config, cache, slow) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    worker, waiter = sorted(outputs, key=len, reverse=True)
    assert "prepared" in worker
    assert "prepared" not in waiter
    assert "waiting for another process" in waiter
    assert len([path for path in (cache / "data").iterdir() if path.is_dir()]) == 1


def test_without_locks_the_first_whole_dataset_stands(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", no_locks)
    config, cache = _config(tmp_path / "a"), tmp_path / "cache"
    with ThreadPoolExecutor(3) as pool:
        datasets = list(pool.map(lambda _: _prepare(config, "causal", cache), range(3)))
    assert len({dataset.fingerprint for dataset in datasets}) == 1
    assert not list((cache / "data").glob(".*.partial"))


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written .* set FLAXMILL_CACHE") as caught:
        _prepare(_config(tmp_path / "a"), "causal", tmp_path / "file" / "cache")
    assert "\n" not in str(caught.value)


def test_an_unknown_objective_names_the_choices(tmp_path):
    with pytest.raises(
        ValueError, match="objective='clm' is unknown; use one of causal, mlm, mlm_nsp, hybrid"
    ):
        _prepare(_config(tmp_path / "a"), "clm", tmp_path / "cache")


@pytest.mark.parametrize("objective", ["mlm", "hybrid", "mlm_nsp"])
def test_an_objective_without_its_special_tokens_is_refused_before_any_work(tmp_path, objective):
    dataset = _prepare(_config(tmp_path / "a"), "causal", tmp_path / "cache")
    text = (dataset.directory / "tokenizer.json").read_text().replace("<|mask|>", "<|other|>")
    (tmp_path / "tokenizer.json").write_text(text)
    config = _config(tmp_path / "a", tokenizer=str(tmp_path / "tokenizer.json"))
    with pytest.raises(
        ValueError, match=rf"objective={objective} needs the tokens \[MASK\].*which data\.tokenizer"
    ):
        _prepare(config, objective, tmp_path / "cache")


@pytest.mark.parametrize("tokenizer", ["bpe", "bytes"])
def test_pairs_need_a_tokenizer_with_cls_and_sep(tmp_path, tokenizer):
    config, lines = _config(tmp_path / "a", tokenizer=tokenizer), []
    with pytest.raises(ValueError, match=r"needs the tokens \[CLS\], \[SEP\].*use data\.tokenizer=wordpiece"):
        _prepare(config, "mlm_nsp", tmp_path / "cache", lines)
    assert lines == []


def test_pairs_of_a_single_training_document_are_refused(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("One sentence. And one more. " * 50)
    config = DataConfig(files=(str(path),), tokenizer="wordpiece", vocab_size=300, sequence_length=32)
    with pytest.raises(ValueError, match="1 training document, but a random second sentence"):
        _prepare(config, "mlm_nsp", tmp_path / "cache")


def test_ordered_pairs_are_another_dataset_and_need_no_second_document(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("One sentence. And one more. " * 50)
    (tmp_path / "held.txt").write_text("Another sentence. And one more. " * 50)
    files: dict = dict(files=(str(path),), valid_files=(str(tmp_path / "held.txt"),))
    config = DataConfig(**files, tokenizer="wordpiece", vocab_size=300, sequence_length=32, pair_task="order")
    dataset = _prepare(config, "mlm_nsp", tmp_path / "cache")
    assert dataset.settings["pair_task"] == "order"
    assert dataset.label_names == ("what follows A", "what comes before A")
    with pytest.raises(ValueError, match="1 training document, but a random second sentence"):
        _prepare(replace(config, pair_task="next"), "mlm_nsp", tmp_path / "cache")


def test_bad_bytes_far_into_the_stream_leave_nothing_behind(tmp_path):
    config = _config(tmp_path / "a", tokenizer="bytes")
    path = Path(config.files[0])
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"\xfe")
    with pytest.raises(ValueError, match=rf"not UTF-8 at byte {size}"):
        _prepare(config, "causal", tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache" / "data").iterdir() if path.is_dir()]


@pytest.mark.slow
def test_preparing_and_reading_import_neither_jax_nor_tensorflow(tmp_path):
    config, cache = _config(tmp_path / "a"), tmp_path / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    code = (
        "import sys\nfrom pathlib import Path\nfrom flaxmill.data.batches import Batches\n"
        "from flaxmill.data.config import DataConfig\n"
        "from flaxmill.data.preparation.cache import prepare\n"
        f"config = {config!r}\ndataset = prepare(config, 'causal', cache=Path({str(cache)!r}))\n"
        "Batches(dataset, 'train', config=config, objective='causal', batch_size=2, seed=0).batch(0)\n"
        "sys.exit([name for name in ('jax', 'tensorflow') if name in sys.modules] or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_the_embedded_corpus_opens_warm_in_half_a_second(tmp_path):
    config = DataConfig()
    _prepare(config, "causal", tmp_path)
    started = time.perf_counter()
    _prepare(config, "causal", tmp_path)
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize("place", ["final", "lock", "leftover"])
def test_a_pipe_in_the_place_of_a_dataset_or_its_lock_is_not_waited_for(tmp_path, place):
    config, cache = _config(tmp_path, tokenizer="bytes"), tmp_path / "cache"
    found = _prepare(config, "causal", cache)
    found.close()
    final = found.directory
    shutil.rmtree(final)
    lock = final.parent / f".{final.name}.lock"
    lock.unlink()
    os.mkfifo({"final": final, "lock": lock, "leftover": final.parent / f".{final.name}.x.partial"}[place])
    assert _prepare(config, "causal", cache).directory == final
    assert [path.name for path in final.parent.iterdir() if path.name.endswith(".partial")] == []
