"""The lock of a run: one process at a time, whatever others look at."""

import errno
import os
import threading

import pytest

from flaxmill.train.run.lock import is_being_trained, lock_run_directory


def assert_refused(directory, problem):
    with pytest.raises(ValueError, match=problem), lock_run_directory(directory):
        pass


def test_a_second_process_in_one_run_directory_is_refused_and_a_dead_ones_lock_is_not(tmp_path):
    with (
        lock_run_directory(tmp_path),
        pytest.raises(ValueError, match=rf"{tmp_path} is being trained by process {os.getpid()} on"),
        lock_run_directory(tmp_path),
    ):
        pass
    with lock_run_directory(tmp_path):
        pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert_refused(tmp_path, r"cannot be written \(no file there can be locked: no locks available\)")


def test_a_lock_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / ".lock").mkdir()
    assert_refused(tmp_path, r"cannot be written \(\.lock: is a directory\); give another --run-dir")


def test_others_see_that_a_run_is_being_trained(tmp_path):
    assert not is_being_trained(tmp_path)
    with lock_run_directory(tmp_path):
        assert is_being_trained(tmp_path)
    assert not is_being_trained(tmp_path)


def test_looking_never_keeps_a_run_from_starting(tmp_path):
    with lock_run_directory(tmp_path):
        pass
    looks, ends = threading.Event(), threading.Event()

    def look():
        while not ends.is_set():
            is_being_trained(tmp_path)
            looks.set()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        looks.wait()
        for _ in range(300):
            with lock_run_directory(tmp_path):
                pass
    finally:
        ends.set()
        thread.join()


def test_a_lock_that_never_opens_is_nobodys(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    assert not is_being_trained(tmp_path)
