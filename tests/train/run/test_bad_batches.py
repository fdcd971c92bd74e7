"""Bad batches are kept whole and readable; if that fails, it is told and not raised."""

import numpy as np
import pytest

from flaxmill.data.preparation.cache import prepare
from flaxmill.train.caches import cache_directory
from flaxmill.train.input_pipeline import make_batches
from flaxmill.train.run import bad_batches
from flaxmill.train.run.bad_batches import write_bad_batches


@pytest.fixture
def batches(make_experiment):
    experiment = make_experiment()
    dataset = prepare(experiment.data, experiment.objective, cache=cache_directory(), log=lambda line: None)
    return make_batches(dataset, "train", experiment)


def test_arrays_and_text_of_each_number_are_kept(batches, tmp_path):
    said = write_bad_batches(tmp_path, batches, [3, 7])
    assert said == str(tmp_path / "bad_batches")
    names = sorted(path.name for path in (tmp_path / "bad_batches").iterdir())
    assert names == ["batch-3.npz", "batch-3.txt", "batch-7.npz", "batch-7.txt"]
    with np.load(tmp_path / "bad_batches" / "batch-7.npz", allow_pickle=False) as kept:
        wanted = batches.batch(7)
        assert set(kept) == set(wanted)
        for name in kept:
            np.testing.assert_array_equal(kept[name], wanted[name], strict=True)
    text = (tmp_path / "bad_batches" / "batch-3.txt").read_text()
    assert text.startswith("batch 3: 16 rows of 32 tokens")
    assert all(f"\nrow {row}: " in text for row in range(16))


def test_the_text_of_a_large_batch_is_cut(batches, tmp_path, monkeypatch):
    monkeypatch.setattr(bad_batches, "ROWS_SHOWN", 3)
    write_bad_batches(tmp_path, batches, [0])
    text = (tmp_path / "bad_batches" / "batch-0.txt").read_text()
    assert text.startswith("batch 0: 16 rows")
    assert "\nrow 2: " in text
    assert "\nrow 3: " not in text


def test_a_batch_that_is_written_again_replaces_the_old(batches, tmp_path):
    write_bad_batches(tmp_path, batches, [0])
    (tmp_path / "bad_batches" / "batch-0.npz").write_bytes(b"torn")
    write_bad_batches(tmp_path, batches, [0])
    with np.load(tmp_path / "bad_batches" / "batch-0.npz") as kept:
        assert kept["tokens"].shape == (16, 32)


def test_a_place_that_cannot_be_written_is_told_and_not_raised(batches, tmp_path):
    (tmp_path / "bad_batches").write_text("a file")
    said = write_bad_batches(tmp_path, batches, [3, 7])
    assert said.startswith(f"{tmp_path / 'bad_batches'} (not 3, 7, which could not be written: ")
    assert "File exists" in said


def test_a_disk_that_fills_up_leaves_no_torn_file(batches, tmp_path, monkeypatch):
    def full(path, **arrays):
        path.write_bytes(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    said = write_bad_batches(tmp_path, batches, [3])
    assert "(not 3, which could not be written: [Errno 28] No space left on device" in said
    assert list((tmp_path / "bad_batches").iterdir()) == []


def test_data_that_cannot_be_read_is_told_and_not_raised(batches, tmp_path, monkeypatch):
    good = batches.batch

    def batch(step):
        if step == 3:
            raise RuntimeError("damaged\nshard")
        return good(step)

    monkeypatch.setattr(batches, "batch", batch)
    said = write_bad_batches(tmp_path, batches, [3, 7])
    assert said.endswith("(not 3, which could not be written: damaged shard)")
    assert (tmp_path / "bad_batches" / "batch-7.npz").exists()
