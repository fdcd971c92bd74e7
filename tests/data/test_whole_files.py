"""Files appear whole or not at all."""

import pytest

from flaxmill.data.whole_files import write_whole, write_whole_text


def test_a_write_that_fails_leaves_what_stood_there_and_no_partial_file(tmp_path):
    write_whole_text(tmp_path / "a.txt", "über\n")

    def fail(partial):
        partial.write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        write_whole(tmp_path / "a.txt", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "über\n"
