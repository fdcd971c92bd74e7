"""TensorBoard's files appear when asked for, and a missing package is named."""

import sys

import pytest

from flaxmill.train.trackers import TensorBoard


def test_scalars_reach_an_event_file_in_the_run_directory(tmp_path):
    board = TensorBoard(tmp_path)
    board.write({"step": 3, "loss": 1.5, "grad_norm": 0.25})
    board._writer.close()  # as tensorboardX does by itself when the process ends
    (events,) = (tmp_path / "tensorboard").glob("events*")
    written = events.read_bytes()
    assert b"loss" in written
    assert b"grad_norm" in written
    assert b"step" not in written


def test_a_missing_package_is_an_error_that_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r"needs the package tensorboardX; .*flaxmill\[tracking\]"):
        TensorBoard(tmp_path)
