"""A cache that fills up or goes away ends a preparation in one line; what it leaves is what can go on."""

import errno
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation import finishing, making
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.prepared import shards

FULL = "write() failed: No space left on device; writing /c/a; at byte 1048576; Failed to close chunk_writer"


def write_text(path, num_lines):
    path.write_text(
        "".join(f"Line {number} of a text that may fill a disk.\n" for number in range(num_lines))
    )
    return str(path)


@pytest.fixture
def config(tmp_path):
    files = (write_text(tmp_path / "text.txt", 100),)
    return DataConfig(files=files, tokenizer="bytes", sequence_length=128)


def prepare_in(cache, config):
    return prepare(config, "causal", cache=cache, log=lambda line: None)


def left_in(cache):
    """The directories that are there, but for that of the unfinished preparation, which can go on."""
    directories = [path.name for path in (cache / "data").iterdir() if path.is_dir()]
    return [name for name in directories if not re.fullmatch(r"\.[^.]+\.partial", name)]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_line_that_names_the_cache(small_disk, tmp_path, flaxmill, monkeypatch):
    cache = small_disk / "c"
    monkeypatch.setenv("FLAXMILL_CACHE", str(cache))
    data = ("--data.files", write_text(tmp_path / "big.txt", 20_000), "--data.tokenizer", "bytes")
    code, _, error = flaxmill("data", "prepare", "gpt_tiny", *data)
    assert code == 1
    (line,) = [line for line in error.splitlines() if "error" in line]
    assert line == (
        f"flaxmill: error: cache directory '{cache / 'data'}' cannot be written (No space left on device); "
        "make room there, or set FLAXMILL_CACHE to a place with more"
    )
    assert left_in(cache) == []


class Writer:
    """Fails as ArrayRecord's writer does; `where` is the method that fails."""

    where, message = "", ""

    def __init__(self, path: str, options: str):
        Path(path).write_bytes(b"half")
        self._fail("open")

    def write(self, record: bytes) -> None:
        self._fail("write")

    def close(self) -> None:
        self._fail("close")

    def _fail(self, method: str) -> None:
        if method == self.where:
            raise RuntimeError(self.message)


@pytest.mark.parametrize("where", ["open", "write", "close"])
@pytest.mark.parametrize(
    ("message", "said"),
    [
        (FULL, r"\(No space left on device\); make room there, or set FLAXMILL_CACHE to a place with more"),
        (
            "write() failed: Disk quota exceeded; writing a",
            r"\(Disk quota exceeded\); make room there, or set",
        ),
        (
            "open() failed: No such file or directory; opening a",
            r"\(No such file or directory\); make sure that it stays",
        ),
        (
            "open() failed: Read-only file system; opening a",
            r"\(Read-only file system\); set FLAXMILL_CACHE to one",
        ),
        (
            "open() failed: Permission denied; opening a",
            r"\(Permission denied\); set FLAXMILL_CACHE to one that can",
        ),
        (
            "something\nelse",
            r"\(something else\); make sure that it stays, or set FLAXMILL_CACHE to another place",
        ),
    ],
)
def test_what_array_record_cannot_write_is_one_line(tmp_path, config, monkeypatch, where, message, said):
    monkeypatch.setattr(Writer, "where", where)
    monkeypatch.setattr(Writer, "message", message)
    monkeypatch.setattr(shards.array_record_module, "ArrayRecordWriter", Writer)
    with pytest.raises(
        (OSError, ValueError), match=rf"cache directory .* cannot be written {said}"
    ) as caught:
        prepare_in(tmp_path / "cache", config)
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path / "cache") == []


@pytest.mark.parametrize("step", ["write_tfds_metadata", "sync", "hash_file"])
def test_a_disk_that_fills_up_later_leaves_only_what_can_go_on(tmp_path, config, monkeypatch, step):
    def fail(*arguments, **settings):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(finishing, step, fail)
        with pytest.raises(OSError, match="No space left on device"):
            prepare_in(tmp_path / "cache", config)
    assert left_in(tmp_path / "cache") == []
    assert prepare_in(tmp_path / "cache", config).statistics["train"]["num_rows"]


def test_a_cache_that_vanishes_is_said(tmp_path, config, monkeypatch):
    build = making.build_dataset

    def vanish(work, groups, directory):
        build(work, groups, directory)
        shutil.rmtree(directory.parent)

    monkeypatch.setattr(making, "build_dataset", vanish)
    with pytest.raises(
        OSError, match=r"\(No such file or directory\); make sure that it stays, or set FLAXMILL_CACHE"
    ):
        prepare_in(tmp_path / "cache", config)


def test_shards_that_vanish_are_said_when_they_are_read(tmp_path, config):
    import numpy as np

    dataset = prepare_in(tmp_path / "cache", config)
    shutil.rmtree(dataset.directory)
    with pytest.raises(OSError, match=r"array_record.* is gone; the same command prepares it again"):
        dataset.read("train", np.arange(1))
