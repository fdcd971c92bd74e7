"""Which directories below a run's checkpoints count as a checkpoint."""

import os

from flaxmill.train.checkpoint.directory import DISCARDED, clear, find_steps


def test_only_the_names_that_saves_give_are_steps(tmp_path):
    for name in ("5", "10", "007", "٣", "-1", "1.5", "6.damaged", "7.orbax-checkpoint-tmp", "x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    (tmp_path / "8").mkdir()  # empty: left by a deletion
    (tmp_path / "9").write_text("")
    assert find_steps(tmp_path) == [5, 10]
    assert find_steps(tmp_path / "gone") == []


def test_a_link_to_itself_is_no_step(tmp_path):
    (tmp_path / "5").symlink_to("5")
    assert find_steps(tmp_path) == []


def test_what_is_cleared_away_is_not_waited_for(tmp_path):
    os.mkfifo(pipe := tmp_path / f"6{DISCARDED}")
    (left := tmp_path / f"7{DISCARDED}").mkdir()
    clear(tmp_path)
    assert pipe.exists()
    assert not left.exists()
