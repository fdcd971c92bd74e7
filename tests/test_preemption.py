import os
import signal
import subprocess
import sys
import threading

import pytest

from flaxmill.train.preemption import EXIT_PREEMPTED, StopSignal

POLLING = """
import sys, time
from flaxmill.train.preemption import StopSignal
with StopSignal() as stop:
    stop.started()
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.02)
sys.exit(75)
"""

DEAF = """
import time
from flaxmill.train.preemption import StopSignal
with StopSignal() as stop:
    stop.started()
    print("ready", flush=True)
    time.sleep(60)
"""

# One long call into C on the main thread, which lets other threads run, as XLA's compiler does.
COMPILING = """
import os, sys, zlib
from flaxmill.train.preemption import StopSignal
with StopSignal(notify=lambda text: print(text, flush=True)) as stop:
    stop.started()
    print("ready", flush=True)
    zlib.compress(os.urandom(1_000_000) * 400, 9)  # ten seconds or more
    print("compressed", flush=True)
sys.exit(75 if stop.requested else 1)
"""


PREPARING = """
import time
from flaxmill.train.preemption import StopSignal
with StopSignal():
    print("ready", flush=True)
    time.sleep(60)
"""


def start(program: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    try:
        output, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, output, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_ends_the_loop_and_says_so(number):
    process = start(POLLING)
    process.send_signal(number)
    code, _, errors = finish(process)
    assert code == EXIT_PREEMPTED
    assert errors.strip() == f"flaxmill: {number.name}: saving and stopping; again to stop at once"


def test_one_signal_ends_a_run_that_has_made_no_step_at_once():
    process = start(PREPARING)
    process.send_signal(signal.SIGTERM)
    code, _, errors = finish(process)
    assert code == EXIT_PREEMPTED
    assert errors.strip() == (
        "flaxmill: SIGTERM: stopping; no step was made since the start, so nothing is lost"
    )


def test_what_ends_a_run_without_a_step_can_be_given():
    left = threading.Event()
    with StopSignal(notify=lambda text: None) as stop:
        stop.leave = left.set
        os.kill(os.getpid(), signal.SIGTERM)
        assert left.wait(10)


def test_second_signal_exits_at_once():
    process = start(DEAF)
    assert process.stderr is not None
    process.send_signal(signal.SIGTERM)
    process.stderr.readline()
    assert "saving" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == EXIT_PREEMPTED


def test_signal_is_taken_while_the_main_thread_is_busy_in_c():
    process = start(COMPILING)
    assert process.stdout is not None
    process.send_signal(signal.SIGTERM)
    assert "SIGTERM" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    code, output, _ = finish(process)
    assert code == EXIT_PREEMPTED
    assert output == ""


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    num_threads = threading.active_count()
    with StopSignal(notify=lambda text: None) as stop:
        assert not stop.requested
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == num_threads


def test_signal_is_seen_by_the_process_that_sent_it():
    notices = []
    with StopSignal(notify=notices.append) as stop:
        stop.started()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    assert len(notices) == 1
    assert stop.requested


def test_outside_the_main_thread_nothing_is_installed():
    seen = []

    def body():
        with StopSignal() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [False]
