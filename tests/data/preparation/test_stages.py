"""A corpus prepared in stages: the same dataset whatever divides it, makes it or ends the one that does."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation import groups, making, parts
from flaxmill.data.preparation.cache import finish_shards, prepare, prepare_shard
from flaxmill.data.preparation.groups import MachineShard
from flaxmill.data.preparation.means import Means
from flaxmill.data.preparation.work_directory import UnfinishedError, WorkDirectory

WORDS = ("the", "of", "a", "to", "model", "weight", "token", "batch", "data", "mesh", "shard", "learn")


def write_files(directory: Path, num_files: int = 5, num_documents: int = 40) -> tuple[str, ...]:
    """Files of documents between blank lines; each document has some sentences of prose."""
    directory.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(num_files):
        documents = []
        for _ in range(num_documents):
            sentences = [
                " ".join(generator.choice(WORDS, generator.integers(3, 12))).capitalize() + "."
                for _ in range(generator.integers(1, 9))
            ]
            documents.append("\n".join(sentences))
        (directory / f"{number}.txt").write_text("\n\n".join(documents) + "\n")
    return tuple(str(directory / f"{number}.txt") for number in range(num_files))


@pytest.fixture
def config(tmp_path):
    files = write_files(tmp_path / "texts")
    return DataConfig(
        files=files, documents="blank_lines", tokenizer="wordpiece", vocab_size=300, sequence_length=24
    )


@pytest.fixture
def small_pieces(monkeypatch):
    """Divides a small corpus as a large one would be."""
    monkeypatch.setattr(parts, "PART_CHARACTERS", 1500)
    monkeypatch.setattr(groups, "GROUP_BYTES", 9000)
    monkeypatch.setattr("flaxmill.data.prepared.shards._SHARD_BYTES", 4000)
    monkeypatch.setattr("flaxmill.data.preparation.row_units._FITTED_ROWS", 20)
    monkeypatch.setattr("flaxmill.data.preparation.text_building.WINDOW_DOCUMENTS", 32)


def make(config, objective, cache, **arguments):
    return prepare(config, objective, cache=cache, log=lambda line: None, **arguments)


def contents(directory: Path) -> dict[str, str]:
    """The hash of every file of a dataset."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def all_rows(dataset) -> dict[str, dict[str, np.ndarray]]:
    return {
        split: dataset.read(split, np.arange(numbers["num_rows"]))
        for split, numbers in dataset.statistics.items()
    }


def assert_rows_equal(one, other) -> None:
    for split, fields in all_rows(one).items():
        for name, values in fields.items():
            np.testing.assert_array_equal(values, all_rows(other)[split][name])


KINDS = [
    ("causal", {}),
    ("mlm_nsp", {"pair_copies": 2}),
    ("mlm", {"packing": "best_fit"}),
    ("mlm", {"packing": "full_sentences"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "fields"), KINDS)
def test_two_workers_make_the_bytes_of_one(tmp_path, config, small_pieces, objective, fields):
    config = replace(config, **fields)
    one = make(config, objective, tmp_path / "one", means=Means(1))
    two = make(config, objective, tmp_path / "two", means=Means(2))
    assert contents(one.directory) == contents(two.directory)
    assert len(list(one.directory.glob("flaxmill-train*"))) > 2
    assert [path.name for path in (tmp_path / "two" / "data").iterdir() if path.is_dir()] == [
        two.directory.name
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "fields"), [KINDS[0], KINDS[1]])
def test_the_rows_do_not_depend_on_the_division(tmp_path, config, monkeypatch, objective, fields):
    """Concatenated rows and pairs are those of one part and one unit, so an older version's."""
    config = replace(config, **fields)
    whole = make(config, objective, tmp_path / "whole")
    for number, (characters, num_bytes, shard_bytes) in enumerate([(1, 1, 200), (700, 5000, 1 << 20)]):
        monkeypatch.setattr(parts, "PART_CHARACTERS", characters)
        monkeypatch.setattr(groups, "GROUP_BYTES", num_bytes)
        monkeypatch.setattr("flaxmill.data.prepared.shards._SHARD_BYTES", shard_bytes)
        divided = make(config, objective, tmp_path / str(number))
        assert divided.fingerprint == whole.fingerprint
        assert divided.statistics == whole.statistics
        assert_rows_equal(divided, whole)


def test_machines_make_the_dataset_of_one(tmp_path, config, small_pieces):
    alone = make(config, "causal", tmp_path / "alone")
    shared: dict = dict(cache=tmp_path / "shared", log=lambda line: None)
    with pytest.raises(ValueError, match="holds no shards; run `flaxmill data prepare` with --shard 1/N"):
        finish_shards(config, "causal", **shared)
    prepare_shard(config, "causal", MachineShard(3, 3), **shared)
    with pytest.raises(ValueError, match="not all shards are done, 1/3, 2/3 are missing"):
        finish_shards(config, "causal", **shared)
    with pytest.raises(ValueError, match=r"shard=1/2 is one of 2, .* with 3 shards; use 3"):
        prepare_shard(config, "causal", MachineShard(1, 2), **shared)
    prepare_shard(config, "causal", MachineShard(1, 3), **shared)
    with pytest.raises(ValueError, match="not all shards are done, 2/3 is missing"):
        finish_shards(config, "causal", **shared)
    prepare_shard(config, "causal", MachineShard(2, 3), **shared)
    assert contents(finish_shards(config, "causal", **shared).directory) == contents(alone.directory)


def test_labelled_examples_are_not_prepared_in_shards(tmp_path):
    with pytest.raises(ValueError, match="labelled examples, which one machine prepares"):
        prepare_shard(
            DataConfig(), "classification", MachineShard(1, 2), cache=tmp_path, log=lambda line: None
        )


class Stop(BaseException):
    """Ends a preparation as a signal does."""


@pytest.mark.parametrize("stage", ["encode", "rows"])
def test_what_was_done_is_not_done_again(tmp_path, config, small_pieces, monkeypatch, stage):
    whole = contents(make(config, "causal", tmp_path / "whole").directory)
    module, name = {
        "encode": ("encoding", "save_part"),
        "rows": ("row_units", "write_shard"),
    }[stage]
    target = f"flaxmill.data.preparation.{module}.{name}"
    from flaxmill.data.preparation import encoding, row_units

    real = {"encode": encoding.save_part, "rows": row_units.write_shard}[stage]
    done: list = []

    def until(limit):
        def counted(path, *arguments):
            if len(done) == limit:
                raise Stop
            done.append(path)
            return real(path, *arguments)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(target, until(3))
        with pytest.raises(Stop):
            make(config, "causal", tmp_path / "cache", means=Means(1))
    monkeypatch.setattr(target, until(1000))
    monkeypatch.setattr(making, "make_tokenizer", lambda *_: pytest.fail("a second tokenizer was trained"))
    again = make(config, "causal", tmp_path / "cache", means=Means(1))
    assert contents(again.directory) == whole
    assert len(done) == len(set(done)) > 3


def test_a_mistake_in_the_text_leaves_nothing(tmp_path, config, small_pieces):
    with open(config.files[-1], "ab") as file:
        file.write(b"\xff")
    with pytest.raises(ValueError, match="not UTF-8"):
        make(config, "causal", tmp_path / "cache")
    assert [path for path in (tmp_path / "cache" / "data").iterdir() if path.is_dir()] == []


def test_what_a_process_left_that_was_killed_when_its_dataset_was_whole_is_deleted(tmp_path, config):
    made = make(config, "causal", tmp_path / "cache")
    WorkDirectory.beside(made.directory).begin({})
    assert len([path for path in made.directory.parent.iterdir() if path.is_dir()]) == 2
    make(config, "causal", tmp_path / "cache")
    assert [path for path in made.directory.parent.iterdir() if path.is_dir()] == [made.directory]


def test_a_damaged_part_of_a_stopped_preparation_is_made_again_or_named(tmp_path, config, small_pieces):
    whole = contents(make(config, "causal", tmp_path / "whole").directory)
    cache, shared = tmp_path / "cache", MachineShard(1, 1)
    prepare_shard(config, "causal", shared, cache=cache, log=lambda line: None)
    (work,) = (cache / "data").glob(".*.partial")
    part = sorted(work.glob("parts/*/*.npz"))[1]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(UnfinishedError, match=rf"{part.name} is damaged .*; delete"):
        make(config, "causal", cache)
    # Without its record the group is read again, and each of its parts compared with the text.
    for record in work.glob("groups/*"):
        record.unlink()
    assert contents(make(config, "causal", cache).directory) == whole


def test_skipped_rows_are_counted_whoever_read_them(tmp_path, monkeypatch, small_pieces):
    for number in range(4):
        rows = [json.dumps({"text": f"Text {number} {row} of some words."}) for row in range(30)]
        rows[7] = "{broken"
        (tmp_path / f"{number}.jsonl").write_text("\n".join(rows) + "\n")
    config = DataConfig(
        files=(str(tmp_path / "*.jsonl"),), bad_rows="skip", tokenizer="bytes", sequence_length=16
    )
    monkeypatch.setattr(groups, "GROUP_BYTES", 1)
    lines: list[str] = []
    alone = make(config, "causal", tmp_path / "alone", means=Means(2))
    assert alone.statistics["train"]["num_bad_rows"] == 4
    for index in (2, 1):
        prepare_shard(
            config, "causal", MachineShard(index, 2), cache=tmp_path / "shared", log=lambda line: None
        )
    finished = finish_shards(config, "causal", cache=tmp_path / "shared", log=lines.append)
    assert finished.statistics == alone.statistics
    assert any(line.startswith("skipped 4 bad rows, the first: ") for line in lines)


def test_machines_with_different_versions_of_the_tokenizers_library_are_refused(
    tmp_path, config, small_pieces, monkeypatch
):
    cache = tmp_path / "cache"
    prepare_shard(config, "causal", MachineShard(1, 2), cache=cache, log=lambda line: None)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1")
    with pytest.raises(ValueError, match="use the same versions on all machines, or delete it"):
        prepare_shard(config, "causal", MachineShard(2, 2), cache=cache, log=lambda line: None)
    # What other machines have done is not thrown away by a command that makes all alone, either.
    parts_there = sorted((cache / "data").glob(".*.partial/parts/*/*.npz"))
    with pytest.raises(ValueError, match="use the same versions on all machines, or delete it"):
        make(config, "causal", cache)
    assert sorted((cache / "data").glob(".*.partial/parts/*/*.npz")) == parts_there != []


def test_a_dataset_that_another_process_finished_meanwhile_is_taken(tmp_path, config, monkeypatch):
    made = make(config, "causal", tmp_path)
    monkeypatch.setattr("flaxmill.data.preparation.cache.open_and_tidy", lambda *_: None)
    finished = finish_shards(config, "causal", cache=tmp_path, log=lambda line: None)
    assert finished.directory == made.directory


def test_another_version_of_the_library_begins_the_work_of_one_machine_again(tmp_path, config, monkeypatch):
    from flaxmill.data.preparation.making import work_key

    made = make(config, "causal", tmp_path)
    shutil.rmtree(made.directory)
    work = WorkDirectory.beside(made.directory)
    work.begin(work_key() | {"tokenizers": "0.0.1"})
    (work.directory / "rows" / "old").write_text("of another version")
    work.begin(work_key())
    assert list((work.directory / "rows").iterdir()) == []


def run_until_killed(config, objective, cache, num_workers, seconds):
    """Prepares in another process, which is killed with its workers' parent after so many seconds."""
    code = (
        "from pathlib import Path\n"
        "from flaxmill.data.config import DataConfig\n"
        "from flaxmill.data.preparation import groups, parts, text_building\n"
        "from flaxmill.data.preparation.cache import prepare\n"
        "from flaxmill.data.preparation.means import Means\n"
        "from flaxmill.data.prepared import shards\n"
        "parts.PART_CHARACTERS, groups.GROUP_BYTES, shards._SHARD_BYTES = 1500, 9000, 4000\n"
        "text_building.WINDOW_DOCUMENTS = 32\n"
        f"prepare({config!r}, {objective!r}, cache=Path({str(cache)!r}), means=Means({num_workers}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait()


def kill_and_go_on(directory, config, objective, num_workers, num_moments):
    """Kills preparations at random moments; the same command again must make the same bytes each time."""
    started = time.monotonic()
    whole = contents(make(config, objective, directory / "whole", means=Means(num_workers)).directory)
    length = time.monotonic() - started
    generator, cache = np.random.default_rng(num_workers), directory / "cache"
    num_killed = 0
    for moment in np.sort(generator.uniform(0.3, 0.6 + length, num_moments)):
        num_killed += run_until_killed(config, objective, cache, num_workers, moment) == -signal.SIGKILL
        assert run_until_killed(config, objective, cache, num_workers, 120) == 0
        (made,) = [path for path in (cache / "data").iterdir() if path.is_dir()]
        assert contents(made) == whole
        shutil.rmtree(cache)
    assert num_killed >= num_moments // 2


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_killed_at_random_moments_the_dataset_is_the_same(tmp_path, config, small_pieces, num_workers):
    kill_and_go_on(tmp_path, config, "causal", num_workers, num_moments=3)


@pytest.mark.sweep
@pytest.mark.parametrize("num_workers", [1, 2, 4])
@pytest.mark.parametrize("objective", ["causal", "mlm_nsp"])
def test_killed_at_twenty_random_moments_the_dataset_is_the_same(
    tmp_path, config, small_pieces, objective, num_workers
):
    config = replace(config, pair_copies=2) if objective == "mlm_nsp" else config
    kill_and_go_on(tmp_path, config, objective, num_workers, num_moments=20)


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    part=st.integers(300, 4000),
    group=st.integers(500, 20_000),
    shard=st.integers(400, 20_000),
    length=st.integers(8, 60),
)
def test_no_token_is_lost_or_doubled_by_any_division(tmp_path_factory, part, group, shard, length):
    directory = tmp_path_factory.mktemp("any")
    files = write_files(directory / "texts", 3, 12)
    config = DataConfig(files=files, documents="blank_lines", tokenizer="bytes", sequence_length=length)
    whole = make(config, "causal", directory / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PART_CHARACTERS", part)
        patch.setattr(groups, "GROUP_BYTES", group)
        patch.setattr("flaxmill.data.prepared.shards._SHARD_BYTES", shard)
        divided = make(config, "causal", directory / "divided")
    assert divided.statistics == whole.statistics
    assert_rows_equal(divided, whole)
