"""Disks: places that cannot hold a run or a cache, one line each."""

from pathlib import Path

import pytest

from flaxmill.sharding.hardware.chips import GIB
from flaxmill.train.doctor.disk import PROBES, check_disk
from flaxmill.train.doctor.file_systems import Mount, Room

MUCH = Room(100 * GIB, 10**6)
EXT4 = Mount("ext4", frozenset({"rw"}))


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FLAXMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    return tmp_path / "cache"


def lines(runs, state, mount=EXT4, room=MUCH, operations=lambda path: None):
    probes = PROBES._replace(mount=lambda path: mount, room=lambda path: room, operations=operations)
    found = [one for one in check_disk(runs, probes) if one.state == state]
    assert all(one.check == "disk" for one in found)
    return [f"{one.what}; {one.fix}" if one.fix else one.what for one in found]


def test_places_that_will_do_are_described(tmp_path, cache):
    assert lines(tmp_path / "runs", "ok") == [
        f"runs: {tmp_path}/runs, ext4, room for 100.0 GiB and 1M files",
        f"prepared data: {cache}, ext4, room for 100.0 GiB and 1M files",
    ]
    assert lines(tmp_path / "runs", "remark") == lines(tmp_path / "runs", "wrong") == []


def test_this_machine_is_examined(tmp_path):
    states = [finding.state for finding in check_disk(tmp_path / "runs")]
    assert len(states) >= 2
    assert "wrong" not in states
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_be_written_is_wrong():
    (line,) = [one for one in check_disk(Path("/proc/runs")) if one.state == "wrong"]
    assert line.what.startswith("runs: /proc/runs, proc, room for ")
    assert line.what.endswith(": cannot be written (no such file or directory)")
    assert line.fix == "give --run-dir elsewhere"


def test_a_file_in_the_place_of_a_directory_is_wrong(tmp_path):
    (tmp_path / "runs").write_text("")
    (line,) = lines(tmp_path / "runs", "wrong")
    assert line.endswith(f": {tmp_path}/runs is a file; give --run-dir elsewhere")


def test_a_cache_that_cannot_be_made_is_wrong(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLAXMILL_CACHE", str(tmp_path / "file" / "below"))
    assert lines(tmp_path / "runs", "wrong") == [
        f"the cache {tmp_path}/file/below cannot be written; set FLAXMILL_CACHE to a directory that can"
    ]


def test_a_system_that_fails_to_tell_is_wrong(tmp_path):
    def stale(path):
        raise OSError(116, "Stale file handle")

    probes = PROBES._replace(room=stale)
    first = next(check_disk(tmp_path / "runs", probes))
    assert (first.state, first.what) == ("wrong", f"runs: {tmp_path}/runs: stale file handle")


def test_an_operation_that_fails_is_wrong(tmp_path):
    found = lines(tmp_path / "runs", "wrong", operations=lambda path: "locking a file fails there (x)")
    assert found[0] == (
        f"runs: {tmp_path}/runs, ext4, room for 100.0 GiB and 1M files: locking a file fails there (x); "
        "give --run-dir elsewhere"
    )


@pytest.mark.parametrize(
    ("room", "state", "what"),
    [
        (Room(10**7, None), "wrong", "room for 0.0 GiB: less than the smallest example writes"),
        (
            Room(100 * GIB, 50),
            "wrong",
            "room for 100.0 GiB and 50 files: less than the smallest example writes",
        ),
        (Room(5 * GIB, None), "remark", "room for 5.0 GiB: it fills up soon"),
        (Room(100 * GIB, 5000), "remark", "room for 100.0 GiB and 5k files: it fills up soon"),
    ],
)
def test_little_room_is_said(tmp_path, room, state, what):
    found = lines(tmp_path / "runs", state, room=room)
    assert len(found) == 2
    assert what in found[0]
    assert found[0].endswith("free some, or give --run-dir elsewhere")


@pytest.mark.parametrize(
    ("mount", "what"),
    [
        (Mount("tmpfs", frozenset()), "is in memory (tmpfs): runs are lost when the machine stops"),
        (Mount("overlay", frozenset()), "is in a container's own layer, and lost with the container"),
        (
            Mount("nfs", frozenset({"nolock"})),
            "(nfs) is mounted with nolock: two machines could train in one",
        ),
        (Mount("lustre", frozenset({"localflock"})), "(lustre) is mounted with localflock: two machines"),
    ],
)
def test_what_a_kind_of_file_system_means_is_a_remark(tmp_path, mount, what):
    found = lines(tmp_path / "runs", "remark", mount=mount)
    assert f"runs: {tmp_path}/runs {what}" in found[0]


def test_a_named_place_of_programs_is_tried_too(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))
    assert lines(tmp_path / "runs", "ok")[2].startswith(f"compiled programs: {tmp_path}/programs, ext4")
