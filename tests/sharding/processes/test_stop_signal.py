import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from flaxmill.sharding.processes import stop_signal as preemption
from flaxmill.sharding.processes.stop_signal import EXIT_PREEMPTED, SECOND_SIGNAL_SECONDS, StopSignal

pytestmark = pytest.mark.slow  # it starts many processes, or waits for them

POLLING = """
import sys, time
from flaxmill.sharding.processes.stop_signal import StopSignal
with StopSignal() as stop:
    stop.started()
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.02)
sys.exit(75)
"""

DEAF = """
import time
from flaxmill.sharding.processes.stop_signal import StopSignal
with StopSignal() as stop:
    stop.started()
    {then}
    print("ready", flush=True)
    time.sleep(60)
"""

# One long call into C on the main thread, which lets other threads run, as XLA's compiler does.
COMPILING = """
import os, sys, zlib
from flaxmill.sharding.processes.stop_signal import StopSignal
with StopSignal(notify=lambda text: print(text, flush=True)) as stop:
    stop.started()
    print("ready", flush=True)
    zlib.compress(os.urandom(1_000_000) * 400, 9)  # ten seconds or more
    print("compressed", flush=True)
sys.exit(75 if stop.requested else 1)
"""

PREPARING = """
import time
from flaxmill.sharding.processes.stop_signal import StopSignal
with StopSignal() as stop:
    {then}
    print("ready", flush=True)
    time.sleep(60)
"""

ENDING = """
import os, signal, sys, time
from flaxmill.sharding.processes.stop_signal import StopSignal
with StopSignal(until_exit=True) as stop:
    stop.started()
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGINT)
print("ready", flush=True)
time.sleep(0.3)
sys.exit(75)
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


@pytest.mark.parametrize(
    ("then", "code", "what"),
    [
        ("pass", 143, "nothing is saved"),
        ("stop.prepares(lambda: False)", 143, "nothing is saved"),
        ("stop.prepares(lambda: True)", 75, "all earlier ones are saved"),
        ("stop.prepares(lambda: open('/gone'))", 143, "nothing is saved"),
        ("stop.started(); stop.saved(); stop.prepares(lambda: False)", 143, "nothing is saved"),
    ],
)
def test_one_signal_ends_a_run_that_has_made_no_step_at_once(then, code, what):
    """It ends with 75 only where there is a checkpoint to continue from."""
    process = start(PREPARING.format(then=then))
    process.send_signal(signal.SIGTERM)
    line = f"flaxmill: SIGTERM: stopping; no step was made since the start, and {what}"
    assert finish(process) == (code, "", f"\n{line}\n")


@pytest.mark.parametrize("milliseconds", [5, 20, 50, 200, 1000])
@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_signal_right_after_the_first_is_the_same_wish(numbers, milliseconds):
    process = start(DEAF.format(then="pass"))
    for number in numbers:
        process.send_signal(number)
        time.sleep(milliseconds / 1000)
    time.sleep(0.1)
    assert process.poll() is None
    process.kill()
    assert finish(process)[2].count("saving and stopping") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_some_time_after_the_first_exits_at_once(number):
    process = start(DEAF.format(then="pass"))
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)  # too soon to count
    time.sleep(SECOND_SIGNAL_SECONDS - 0.4)
    process.send_signal(number)
    code, _, errors = finish(process)
    assert code == 128 + number
    assert errors.splitlines()[-1] == (
        f"flaxmill: {number.name}: stopping at once; nothing was saved since the first signal"
    )


def test_once_all_is_saved_even_a_second_signal_exits_with_75():
    process = start(DEAF.format(then="stop.saved()"))
    process.send_signal(signal.SIGTERM)
    time.sleep(SECOND_SIGNAL_SECONDS + 0.1)
    process.send_signal(signal.SIGTERM)
    code, _, errors = finish(process)
    assert code == EXIT_PREEMPTED
    assert errors.splitlines()[1::2] == [
        "flaxmill: SIGTERM: all is saved, and it ends; again to stop at once",
        "flaxmill: SIGTERM: stopping at once; all is saved",
    ]


def test_once_the_code_is_decided_no_signal_changes_it():
    assert finish(start(ENDING)) == (75, "", "")


def test_what_ends_a_run_at_once_can_be_given_and_waited_for():
    left = []
    with StopSignal(notify=lambda text: None) as stop:
        stop.leave = None
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        assert left == []
        done = threading.Event()
        stop.leave = lambda code, said: (left.append((code, said)), done.set())
        assert done.wait(10)
    assert left == [(143, "SIGTERM: stopping; no step was made since the start, and nothing is saved")]


def test_what_was_to_end_a_run_and_never_came_is_not_waited_for(monkeypatch):
    codes = []
    monkeypatch.setattr(preemption.os, "_exit", codes.append)
    with StopSignal(notify=lambda text: None) as stop:
        stop.leave = None
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
    assert codes == [130]


def test_signal_is_taken_while_the_main_thread_is_busy_in_c():
    process = start(COMPILING)
    assert process.stdout is not None
    process.send_signal(signal.SIGTERM)
    assert "SIGTERM" in process.stdout.readline()
    time.sleep(SECOND_SIGNAL_SECONDS)
    process.send_signal(signal.SIGTERM)
    code, output, _ = finish(process)
    assert code == 143
    assert output.strip() == "SIGTERM: stopping at once; nothing was saved since the first signal"


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


def test_a_run_that_is_asked_stops_when_it_has_made_a_step():
    said = []
    with StopSignal(notify=said.append) as stop:
        assert not stop.requested
        stop.ask("2 minutes have passed")
        assert stop.requested
        stop.ask("again")
        stop.started()
    stop.ask("it has ended")
    assert said == ["2 minutes have passed: saving and stopping after the first step"]


def test_what_is_said_depends_on_what_there_is_to_save():
    for phase, what in (("started", "saving and stopping"), ("saved", "all is saved, and it ends")):
        said = []
        with StopSignal(notify=said.append) as stop:
            getattr(stop, phase)()
            stop.ask("time is up")
        assert said == [f"time is up: {what}"]
        assert stop.requested


def test_a_signal_still_counts_after_it_was_asked():
    process = start(DEAF.format(then="stop.ask('time is up')"))
    process.send_signal(signal.SIGTERM)
    time.sleep(SECOND_SIGNAL_SECONDS + 0.2)
    process.send_signal(signal.SIGTERM)
    code, _, errors = finish(process)
    assert code == 128 + signal.SIGTERM
    assert "time is up: saving and stopping" in errors
