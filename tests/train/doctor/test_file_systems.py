"""File systems: which one holds a path, and operations that fail there."""

import fcntl
import os
from pathlib import Path

import pytest

from flaxmill.train.doctor.file_systems import (
    Mount,
    mount_of,
    nearest_directory,
    room_at,
    try_operations,
)

TABLE = r"""22 1 0:21 / / rw,relatime - ext4 /dev/root rw
23 22 0:22 / /data rw shared:1 - nfs4 server:/data rw,vers=4.2,local_lock=none
24 22 0:23 / /data/fast\040disk rw - lustre mds@tcp:/fast rw,localflock
25 22 0:24 / /data/over rw - ext4 /dev/b rw
26 22 0:25 / /data/over rw - tmpfs tmpfs rw,size=1k
"""


@pytest.mark.parametrize(
    ("path", "kind", "option"),
    [
        ("/home/me", "ext4", "rw"),
        ("/data/runs", "nfs4", "local_lock=none"),
        ("/database", "ext4", "rw"),
        ("/data/fast disk/x", "lustre", "localflock"),
        ("/data/over", "tmpfs", "size=1k"),
    ],
)
def test_the_longest_mount_point_holds_a_path(tmp_path, path, kind, option):
    (tmp_path / "mountinfo").write_text(TABLE)
    found = mount_of(Path(path), tmp_path / "mountinfo")
    assert found is not None
    assert found.kind == kind
    assert option in found.options


def test_a_system_without_the_table_tells_nothing(tmp_path):
    assert mount_of(tmp_path, tmp_path / "none") is None


def test_this_machine_answers(tmp_path):
    assert isinstance(mount_of(tmp_path), Mount)
    assert room_at(tmp_path).num_bytes > 0
    assert nearest_directory(tmp_path / "a" / "b") == tmp_path


def test_a_good_directory_passes_and_is_left_as_it_was(tmp_path):
    assert try_operations(tmp_path) is None
    assert os.listdir(tmp_path) == []


def test_a_directory_that_cannot_be_written_is_said():
    assert try_operations(Path("/proc")) == "cannot be written (no such file or directory)"


def refuse(*arguments, **named):
    raise OSError(95, "Operation not supported")


@pytest.mark.parametrize(
    ("owner", "name", "line"),
    [
        (os, "fsync", "writing a file to the disk fails there (operation not supported)"),
        (os, "replace", "renaming a file fails there (operation not supported)"),
        (Path, "rename", "renaming a folder fails there (operation not supported)"),
        (fcntl, "flock", "locking a file fails there (operation not supported)"),
    ],
)
def test_an_operation_that_is_not_supported_is_named(tmp_path, monkeypatch, owner, name, line):
    monkeypatch.setattr(owner, name, refuse)
    assert try_operations(tmp_path) == line
    assert os.listdir(tmp_path) == []


def test_locks_that_keep_nobody_out_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    assert try_operations(tmp_path) == "locks do not keep a second process out there"


def test_a_rename_that_copies_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda old, new: Path(new).write_bytes(b"half"))
    assert try_operations(tmp_path) == "renaming a file onto another does not replace it there"
