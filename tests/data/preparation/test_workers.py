"""Workers: results in order, failures said, and no process left behind."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from flaxmill.data.preparation.work_directory import UnfinishedError
from flaxmill.data.preparation.workers import run_in_order

# The functions that workers of these tests run; each worker imports this module.


def make_squarer(offset):
    def square(number):
        if number == 13:
            raise ValueError("13 is unlucky")
        if number == 17:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number**2 + offset, os.getpid()

    return square


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import test_workers

    return test_workers


def test_results_come_in_the_order_of_the_tasks_from_processes_of_their_own(importable):
    results = list(run_in_order(importable.make_squarer, (5,), iter(range(12)), num_workers=3))
    assert [value for value, _ in results] == [number**2 + 5 for number in range(12)]
    assert 1 < len({process for _, process in results}) <= 3
    assert os.getpid() not in {process for _, process in results}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_first_task_that_fails_raises(importable, num_workers):
    results = run_in_order(importable.make_squarer, (0,), iter(range(20)), num_workers=num_workers)
    with pytest.raises(ValueError, match="13 is unlucky"):
        list(results)


def test_a_killed_worker_is_said(importable):
    results = run_in_order(importable.make_squarer, (0,), iter([1, 2, 17, 3, 4, 5]), num_workers=2)
    with pytest.raises(UnfinishedError, match="was killed, perhaps since memory ran out; the same command"):
        list(results)


def test_no_worker_outlives_its_tasks(importable):
    results = run_in_order(importable.make_squarer, (0,), iter(range(9)), num_workers=2)
    processes = {next(results)[1], next(results)[1]}
    results.close()
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    assert threading.active_count() < 10
