"""Which directories among a run's checkpoints count as one."""

from flaxmill.train.checkpoint_directory import find_steps


def test_only_the_names_that_saves_give_are_steps(tmp_path):
    for name in ("5", "10", "007", "٣", "-1", "1.5", "6.damaged", "7.orbax-checkpoint-tmp", "x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    (tmp_path / "8").mkdir()  # empty: of a deletion
    (tmp_path / "9").write_text("")
    assert find_steps(tmp_path) == [5, 10]
    assert find_steps(tmp_path / "gone") == []
