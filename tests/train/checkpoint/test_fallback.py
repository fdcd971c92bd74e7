import errno
import gc
import os
import shutil
from pathlib import Path

import jax
import pytest
from damaging import CONFIG, PARAMS, WANTED, flip, one_file, write_checkpoints

from flaxmill.train.checkpoint import agreement as checkpoint_agreement
from flaxmill.train.checkpoint import stored as stored_checkpoint
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig, Checkpoints
from flaxmill.train.checkpoint.store import COMMIT_FILE
from flaxmill.train.failures import CheckpointError, DamagedCheckpointError


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def run(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "run")


def test_the_next_older_whole_checkpoint_is_used_and_damaged_ones_are_kept(run):
    flipped, lost = one_file(run / "30"), one_file(run / "20")
    flip(flipped, 200)
    lost.unlink()
    (run / "30.damaged").mkdir()
    (run / "40.orbax-checkpoint-tmp").mkdir()
    said = []
    with Checkpoints(run, CONFIG) as checkpoints:
        loaded = checkpoints.load_newest(
            lambda stored: (stored.restore(WANTED), stored.metadata), said.append
        )
        assert loaded is not None
        assert loaded[1] == {"step": 10}
        assert checkpoints.steps() == [10]
    assert sorted(os.listdir(run)) == ["10", "20.damaged", "30.damaged", "30.damaged.2"]
    where = f"params/embed/tokens in {flipped.relative_to(run / '30')}"
    first = f"{run}/30 is damaged: {where} is not what was saved (digest differs)"
    second = f"{run}/20 is damaged: {lost.relative_to(run / '20')} is missing, which loses {PARAMS}"
    going_on, again = "going on from step 10, with", "to do again, and what is damaged is kept as"
    assert said == [
        f"{first}; {going_on} 20 {again} 30.damaged.2",
        f"{second}; {going_on} 10 {again} 20.damaged",
    ]


def test_what_was_loaded_of_a_damaged_checkpoint_does_not_stay_in_memory(run):
    flip(one_file(run / "30"), 200)
    alive = []

    def load(stored):
        alive.append(sum(array.nbytes for array in jax.live_arrays()))
        return stored.restore(WANTED)

    gc.collect()
    gc.disable()
    try:
        with Checkpoints(run, CONFIG) as checkpoints:
            checkpoints.load_newest(load, [].append)
    finally:
        gc.enable()
    assert len(alive) == 2
    assert alive[0] == alive[1]


def test_without_fallback_damage_ends_the_run(run):
    flip(one_file(run / "30"), 200)
    config = CheckpointConfig(fallback=False)
    with (
        Checkpoints(run, config) as checkpoints,
        pytest.raises(DamagedCheckpointError, match="/30 is damaged"),
    ):
        checkpoints.load_newest(lambda stored: stored.restore(WANTED), print)
    assert sorted(os.listdir(run)) == ["10", "20", "30"]


def test_reading_alone_changes_nothing(run):
    flip(one_file(run / "30"), 200)
    (run / "40.orbax-checkpoint-tmp").mkdir()
    before, said = sorted(os.listdir(run)), []
    with Checkpoints(run, CONFIG, read_only=True) as checkpoints:
        loaded = checkpoints.load_newest(
            lambda stored: (stored.step, stored.restore_params(WANTED["params"])), said.append
        )
    assert loaded is not None
    assert loaded[0] == 20
    assert said[0].endswith("(digest differs); step 20 is used instead")
    assert sorted(os.listdir(run)) == before


def test_without_any_whole_checkpoint_the_newest_is_named_and_nothing_is_set_aside(run):
    for step in (10, 20, 30):
        flip(one_file(run / str(step)), 200)
    with (
        Checkpoints(run, CONFIG) as checkpoints,
        pytest.raises(DamagedCheckpointError, match="/30 is damaged"),
    ):
        checkpoints.load_newest(lambda stored: stored.restore(WANTED), print)
    assert sorted(os.listdir(run)) == ["10", "20", "30"]


def test_without_checkpoints_there_is_nothing_to_load(tmp_path):
    with Checkpoints(tmp_path / "none", CONFIG) as checkpoints:
        assert checkpoints.load_newest(lambda stored: stored.step, print) is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("own", "others", "kind", "text"),
    [
        (None, "damage", DamagedCheckpointError, "as another process of this job found"),
        (None, "failure", CheckpointError, "another process of this job failed and says why"),
        ("damage", "damage", DamagedCheckpointError, "digest differs"),
        ("damage", "failure", CheckpointError, "another process of this job failed and says why"),
    ],
)
def test_what_one_process_cannot_load_fails_in_all(run, monkeypatch, own, others, kind, text):
    if own:
        flip(one_file(run / "30"), 200)
    calls = []

    def any_process(flag):
        """Other processes fail as asked for, at the third agreement, after the digests."""
        calls.append(flag)
        asks_for_damage = len(calls) % 2 == 0
        return flag or (len(calls) > 6 and asks_for_damage == (others == "damage"))

    monkeypatch.setattr(checkpoint_agreement, "any_process", any_process)
    with Checkpoints(run, CONFIG) as checkpoints, pytest.raises(kind, match=text) as caught:
        checkpoints.open(30).restore(WANTED)
    assert type(caught.value) is kind


def test_a_load_that_fails_without_damage_does_not_blame_the_checkpoint(run, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("handlers") from MemoryError("out of memory\n on this host")

    monkeypatch.setattr(stored_checkpoint, "load_leaves", fail)
    with (
        Checkpoints(run, CONFIG) as checkpoints,
        pytest.raises(CheckpointError, match="30 could not be loaded: out of memory on this host") as caught,
    ):
        checkpoints.load_newest(lambda stored: stored.restore(WANTED), print)
    assert not isinstance(caught.value, DamagedCheckpointError)
    assert sorted(os.listdir(run)) == ["10", "20", "30"]


def test_what_changes_on_the_way_from_the_disk_does_not_blame_the_checkpoint(run, monkeypatch):
    load = stored_checkpoint.load_leaves

    def change(*args, **kwargs):
        leaves = load(*args, **kwargs)
        return leaves | {("step",): leaves[("step",)] + 1}

    monkeypatch.setattr(stored_checkpoint, "load_leaves", change)
    with (
        Checkpoints(run, CONFIG) as checkpoints,
        pytest.raises(CheckpointError, match="30 is whole, but step changed on the way") as caught,
    ):
        checkpoints.open(30).restore(WANTED)
    assert not isinstance(caught.value, DamagedCheckpointError)


@pytest.mark.parametrize(
    "cause",
    [
        OSError(errno.EIO, "Input/output error", "/disk/file"),
        ValueError("UNKNOWN: Reading \"/disk/file\": Input/output error [os_error_code='5']"),
    ],
)
def test_a_disk_that_fails_is_not_damage(run, monkeypatch, cause):
    def fail(*_, **__):
        raise RuntimeError("handlers") from cause

    monkeypatch.setattr(stored_checkpoint, "load_leaves", fail)
    with (
        Checkpoints(run, CONFIG) as checkpoints,
        pytest.raises(OSError, match="Input/output error") as caught,
    ):
        checkpoints.load_newest(lambda stored: stored.restore(WANTED), print)
    assert str(caught.value) == f"{run}/30 could not be read: Input/output error: /disk/file"
    assert sorted(os.listdir(run)) == ["10", "20", "30"]


def test_files_that_may_not_be_read_are_an_os_error(run, monkeypatch):
    read = Path.read_text

    def refuse(path, *args, **kwargs):
        if path.name == COMMIT_FILE:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)  # root may read anything
    with Checkpoints(run, CONFIG) as checkpoints, pytest.raises(PermissionError, match="/30/_CHECKPOINT"):
        checkpoints.load_newest(lambda stored: stored.restore(WANTED), print)
    assert sorted(os.listdir(run)) == ["10", "20", "30"]


def test_where_none_is_whole_every_one_is_named(run):
    for step in (10, 20, 30):
        flip(one_file(run / str(step)), 200)
    with Checkpoints(run, CONFIG) as checkpoints, pytest.raises(DamagedCheckpointError) as caught:
        checkpoints.load_newest(lambda stored: stored.restore(WANTED), [].append)
    message = str(caught.value)
    places = [message.index(f"{run}/{step} is damaged") for step in (30, 20, 10)]
    assert places == sorted(places)
    assert message.endswith("none is whole: put a copy back, or start in a new run directory")
    assert sorted(os.listdir(run)) == ["10", "20", "30"]


def test_a_step_that_was_set_aside_is_saved_again(run):
    with Checkpoints(run, CONFIG) as checkpoints:
        state = checkpoints.open(30).restore(WANTED)
        checkpoints.save(40, state, {})
        checkpoints.wait()
        flip(one_file(run / "40"), 200)
        checkpoints.load_newest(lambda stored: stored.restore(WANTED), [].append)
        assert checkpoints.latest_step() == 30
        checkpoints.save(40, state, {})
        checkpoints.wait()
        assert checkpoints.latest_step() == 40
