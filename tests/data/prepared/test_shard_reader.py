"""Rows of different files, and of one file for different threads, are read at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from flaxmill.data.prepared import shard_reader, shards
from flaxmill.data.prepared.records import Field, RecordFormat
from flaxmill.data.prepared.shard_reader import ShardReader
from flaxmill.data.prepared.shards import ShardWriter, name_shards

FORMAT = RecordFormat([Field("number", "int32", ())])
SECONDS = 20  # a test that hangs ends


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A reader of eight files of ten rows; row n holds n."""
    monkeypatch.setattr(shards, "_SHARD_BYTES", FORMAT.num_bytes * 10)
    writer = ShardWriter(tmp_path, "written", FORMAT)
    writer.write({"number": np.arange(80, dtype=np.int32)})
    writer.close()
    return ShardReader(tmp_path, name_shards(tmp_path, "train", writer.shards))


def numbers(records):
    return FORMAT.decode(records)["number"].tolist()


def watch(monkeypatch, enter, opened=lambda path: None):
    """Call `enter` with the path of a file before each read of it, and `opened` before each opening."""
    module = shard_reader.array_record_module

    class Watched:
        def __init__(self, path, options):
            opened(path)
            self._path, self._reader = path, module.ArrayRecordReader(path, options)

        def num_records(self):
            return self._reader.num_records()

        def read(self, positions):
            enter(self._path)
            return self._reader.read(positions)

    monkeypatch.setattr(shard_reader, "array_record_module", SimpleNamespace(ArrayRecordReader=Watched))


def test_two_threads_read_one_file_at_the_same_time(reader, monkeypatch):
    both = threading.Barrier(2, timeout=SECONDS)
    watch(monkeypatch, lambda path: both.wait())  # broken, and an error, unless two are in it
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(reader.read, [np.array([3, 1]), np.array([7])]))
    assert [numbers(records) for records in found] == [[3, 1], [7]]


def test_files_are_read_side_by_side_if_the_first_took_long(reader, monkeypatch):
    monkeypatch.setattr(shard_reader, "_SLOW_SECONDS", 0.0)
    others = threading.Barrier(7, timeout=SECONDS)
    watch(monkeypatch, lambda path: None if "-00000-of" in path else others.wait())
    rows = np.random.default_rng(0).permutation(80)
    assert numbers(reader.read(rows)) == rows.tolist()


def test_files_of_a_disk_are_read_by_the_thread_that_asks(reader, monkeypatch):
    monkeypatch.setattr(shard_reader, "_SLOW_SECONDS", SECONDS)
    seen = []
    watch(monkeypatch, lambda path: seen.append(threading.current_thread()))
    assert numbers(reader.read(np.arange(80))) == list(range(80))
    assert seen == [threading.current_thread()] * 8


def test_threads_that_need_one_file_open_it_once_while_others_are_opened(reader, monkeypatch):
    opened = []
    two_files = threading.Barrier(2, timeout=SECONDS)

    def note(path):
        opened.append(path)
        two_files.wait()

    watch(monkeypatch, lambda path: None, note)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(reader.read, [np.array([number]) for number in (5, 15) * 4]))
    assert [numbers(records) for records in found] == [[5], [15]] * 4
    assert len(opened) == len(set(opened)) == 2


def test_the_error_of_a_file_read_beside_others_names_it(reader, monkeypatch, tmp_path):
    monkeypatch.setattr(shard_reader, "_SLOW_SECONDS", 0.0)
    path = sorted(tmp_path.glob("*-00005-of-*"))[0]
    path.unlink()
    with pytest.raises(OSError, match=f"{path.name} is gone; the same command prepares it again"):
        reader.read(np.arange(80))


def test_a_file_that_is_closed_while_it_is_read_gives_its_rows(reader, monkeypatch):
    monkeypatch.setattr(shard_reader, "_MAX_OPEN_FILES", 1)
    inside, closed = threading.Event(), threading.Event()

    def enter(path):
        if "-00000-of" in path:
            inside.set()
            assert closed.wait(SECONDS)

    watch(monkeypatch, enter)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(reader.read, np.array([4]))
        assert inside.wait(SECONDS)
        assert numbers(reader.read(np.array([14, 24]))) == [14, 24]  # each takes the place of the one before
        reader.close()
        closed.set()
        assert numbers(first.result()) == [4]
