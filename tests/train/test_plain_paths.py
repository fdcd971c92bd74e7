"""Checkpoints are written and read below directories of any name."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from damaging import CONFIG, DATA, WANTED, cut, one_file, write_checkpoints
from odd_names import ALL_AT_ONCE, ODD_NAMES

from flaxmill.train import plain_paths
from flaxmill.train.checkpoint.checkpoints import Checkpoints
from flaxmill.train.checkpoint.damage import (
    find_damaged_arrays,
    find_damaged_files,
    load_manifest,
    read_array,
)
from flaxmill.train.failures import DamagedCheckpointError
from flaxmill.train.plain_paths import find_strange, is_taken_for_bucket, plain


@pytest.mark.parametrize("name", [*ODD_NAMES, ALL_AT_ONCE])
def test_checkpoints_below_any_name_are_written_restored_and_found_whole(name, tmp_path):
    run = write_checkpoints(tmp_path / name, (20,))
    with Checkpoints(run, CONFIG) as checkpoints:
        state = checkpoints.open(20).restore(WANTED)
    arrays = load_manifest(run / "20")["arrays"]
    assert find_damaged_files(run / "20", arrays) == []
    assert find_damaged_arrays(run / "20", arrays) == []
    tokens = read_array(run / "20", "params/embed/tokens")
    np.testing.assert_array_equal(tokens, state["params"]["embed"]["tokens"])


@pytest.mark.parametrize("name", ["lab #3", "a[b]", "a\\b"])
def test_damage_below_any_name_is_damage(name, tmp_path):
    run = write_checkpoints(tmp_path / name, (20,))
    cut(one_file(run / "20", DATA))
    with Checkpoints(run, CONFIG) as checkpoints, pytest.raises(DamagedCheckpointError) as caught:
        checkpoints.open(20).restore(WANTED)
    assert caught.value.damage.startswith(f"{run}/20 is damaged: params/ocdbt.process_0/d/")


def test_a_name_that_all_read_alike_stays(tmp_path):
    assert plain(tmp_path / "lab #3" / "5") == tmp_path / "lab #3" / "5"


def test_another_name_is_a_link_that_is_made_once_and_again_where_it_is_gone(tmp_path):
    folder = tmp_path / "a[b]"
    folder.mkdir()
    link = plain(folder / "5").parent
    assert plain(folder / "6") == link / "6"
    assert os.readlink(link) == str(folder)
    link.unlink()
    link.symlink_to(tmp_path)
    assert plain(folder / "5") == link / "5"
    assert os.readlink(link) == str(folder)
    assert plain_paths.with_real_names(f"no room: {link}/5") == f"no room: {folder}/5"


def test_links_stand_where_nobody_else_can_put_any(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    (tmp_path / f"flaxmill-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / f"flaxmill-{os.getuid()}").chmod(0o777)
    with pytest.raises(PermissionError, match=re.escape(f"{tmp_path}/flaxmill-")):
        plain(tmp_path / "a[b]" / "5")


def test_what_is_mounted_like_a_bucket_is_read_as_a_directory():
    assert is_taken_for_bucket(Path("/s3/name/run"))
    assert not is_taken_for_bucket(Path("/home/s3/run"))
    assert plain(Path("/s3/name/5")).parent.parent.name == f"flaxmill-{os.getuid()}"


def test_what_a_reader_may_wait_at_for_ever_is_found(tmp_path):
    (directory := tmp_path / "a" / "b").mkdir(parents=True)
    (directory / "file").write_text("")
    (directory / "link").symlink_to("file")
    (directory / "up").symlink_to("..")
    assert find_strange(tmp_path) is None
    for number, make in enumerate(
        [
            os.mkfifo,
            lambda path: path.symlink_to("nothing"),
            lambda path: path.symlink_to("/dev/zero"),
            lambda path: path.symlink_to(path.name),
        ]
    ):
        make(directory / f"z{number}")
        assert find_strange(tmp_path) == directory / f"z{number}"
        (directory / f"z{number}").unlink()
