"""A tracker that raises, blocks, dies or falls behind costs the run nothing but what the tracker misses."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from flaxmill.train.metrics import tracker_process, trackers
from flaxmill.train.metrics.trackers import LOG_FILE, Trackers

pytestmark = pytest.mark.slow  # it starts many processes, or waits for them

ROWS = [{"step": step, "loss": 1 / (step + 1)} for step in range(300)]

# A wandb that appends what it is given to a file; each test sets the lines `{...}`.
FAKE_WANDB = """
import atexit, json, os, pathlib, signal, sys, time
FILE = pathlib.Path({file!r})
def record(*value):
    with FILE.open("a") as file:
        print(json.dumps(value), file=file)
class Settings:
    def __init__(self, **settings): pass
class Run:
    def define_metric(self, *names, **settings): pass
    def log(self, row):
        {log}
        record("row", row)
    def finish(self, exit_code):
        {finish}
        record("finish", exit_code)
def init(id, **settings):
    {init}
    record("open", id, os.getpid())
    return Run()
"""


@pytest.fixture
def fake_wandb(tmp_path, monkeypatch):
    """Makes `import wandb` find a fake, in trackers' processes too; returns what reads its record."""
    packages, file = tmp_path / "packages", tmp_path / "record"
    packages.mkdir()
    monkeypatch.syspath_prepend(str(packages))

    def make(*, init="pass", log="pass", finish="pass"):
        source = FAKE_WANDB.format(file=str(file), init=init, log=log, finish=finish)
        (packages / "wandb.py").write_text(source)

        def read(kind):
            lines = file.read_text().splitlines() if file.exists() else []
            return [values for found, *values in map(json.loads, lines) if found == kind]

        return read

    return make


@pytest.fixture
def said():
    return []


@pytest.fixture
def open_trackers(tmp_path, said, monkeypatch):
    monkeypatch.setattr(trackers, "RETRY_SECONDS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(trackers, "EXIT_SECONDS", 60)  # processes start slowly on a busy machine
    (tmp_path / "run").mkdir()

    def make(*names):
        return Trackers(names, tmp_path / "run", "run", {"steps": 300}, said.append)

    return make


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_ended(pid):
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" in status.read_text()


def test_rows_arrive_whole_and_in_order_as_finite_floats(fake_wandb, open_trackers, said):
    read = fake_wandb()
    with open_trackers("wandb") as running:
        for row in ROWS:
            running.write(row | {"bad": float("nan"), "worse": None, "key": [1, 2]})
        running.write({"step": 300, "eval_loss": 2})
    assert read("row") == [[row] for row in ROWS] + [[{"step": 300.0, "eval_loss": 2.0}]]
    assert read("finish") == [[0]]
    assert said == []


def test_a_run_that_fails_says_so_to_its_trackers(fake_wandb, open_trackers):
    read = fake_wandb()
    with pytest.raises(KeyError), open_trackers("wandb"):
        raise KeyError
    assert read("finish") == [[1]]


def test_a_resumed_run_keeps_its_id(fake_wandb, open_trackers, tmp_path):
    read = fake_wandb()
    for _ in range(2):
        with open_trackers("wandb"):
            pass
    (first, _), (second, _) = read("open")
    assert first == second == json.loads((tmp_path / "run" / "trackers.json").read_text())["run_id"]


def test_tensorboard_files_appear_in_the_run_directory(open_trackers, tmp_path):
    with open_trackers("tensorboard") as running:
        running.write({"step": 3, "loss": 1.5, "grad_norm": 0.25})
    (events,) = (tmp_path / "run" / "tensorboard").glob("events*")
    assert b"grad_norm" in events.read_bytes()


def test_without_trackers_nothing_is_started_or_written(open_trackers, tmp_path):
    with open_trackers() as running:
        running.write(ROWS[0])
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_missing_package_is_an_error_that_says_how_to_install_it(name, open_trackers, monkeypatch):
    monkeypatch.setitem(sys.modules, trackers.PACKAGES[name], None)
    with pytest.raises(ValueError, match=rf"trackers={name} needs .* `pip install 'flaxmill\[{name}\]'`"):
        open_trackers(name)


def test_of_several_trackers_the_advice_keeps_those_that_are_there(open_trackers, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"go on without it: --trackers None --trackers tensorboard$"):
        trackers.check_installed(("tensorboard", "wandb"))


def test_a_trackers_process_is_not_told_the_jobs_secret(fake_wandb, open_trackers, monkeypatch):
    monkeypatch.setenv("FLAXMILL_JOB_TOKEN", "secret")
    read = fake_wandb(init="record('token', os.environ.get('FLAXMILL_JOB_TOKEN'))")
    with open_trackers("wandb") as tracker:
        tracker.write(ROWS[0])
    assert read("token") == [[None]]


def test_a_directory_that_wandb_left_behind_is_not_taken_for_the_package(
    open_trackers, tmp_path, monkeypatch
):
    (tmp_path / "left" / "wandb").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "left")])
    with pytest.raises(ValueError, match="not installed"):
        open_trackers("wandb")


@pytest.mark.parametrize("where", ["init", "log"])
@pytest.mark.parametrize(
    ("deed", "told"),
    [
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("sys.exit('no account')", "SystemExit: no account"),
        ("os._exit(3)", "its process ended"),
    ],
)
def test_a_tracker_that_fails_is_switched_off_in_one_line(
    where, deed, told, fake_wandb, open_trackers, said, tmp_path
):
    read = fake_wandb(**{where: deed})
    with open_trackers("wandb") as running:
        running.write(ROWS[0])
        wait_until(lambda: said)
        running.write(ROWS[1])
    (line,) = said
    assert line == (
        f"tracker wandb is switched off for the rest of this run: it failed 4 times in a row, at last with "
        f"{told}; {tmp_path / 'run' / LOG_FILE} has its output, and metrics.jsonl has every row"
    )
    assert read("row") == []


def test_the_failure_of_one_tracker_leaves_the_others_alone(fake_wandb, open_trackers, said, tmp_path):
    fake_wandb(init="os.abort()")
    with open_trackers("wandb", "tensorboard") as running:
        for row in ROWS:
            running.write(row)
            time.sleep(1e-3)
    assert len(said) == 1
    assert "wandb" in said[0]
    (events,) = (tmp_path / "run" / "tensorboard").glob("events*")
    assert events.read_bytes().count(b"loss") == len(ROWS)


def test_a_failure_that_passes_loses_no_row(fake_wandb, open_trackers, said):
    read = fake_wandb(
        init="if not FILE.exists(): record('failed'); raise OSError('no network')",
        log="if row['step'] == 7 and FILE.read_text().count('failed') < 3: record('failed'); os._exit(1)",
    )
    with open_trackers("wandb") as running:
        for row in ROWS:
            running.write(row)
    assert len(read("failed")) == 3
    assert {row["step"] for (row,) in read("row")} == set(range(len(ROWS)))
    assert said == []


@pytest.mark.parametrize("where", ["init", "log"])
def test_a_tracker_that_blocks_for_ever_holds_up_neither_rows_nor_the_end(
    where, fake_wandb, open_trackers, said, monkeypatch, tmp_path
):
    monkeypatch.setattr(trackers, "EXIT_SECONDS", 2)
    read = fake_wandb(**{where: "record('stuck', os.getpid()); time.sleep(1e6)"})
    seconds = []
    with open_trackers("wandb", "tensorboard") as running:
        wait_until(lambda: where == "log" or read("stuck"))
        for row in ROWS:
            start = time.perf_counter()
            running.write(row)
            seconds.append(time.perf_counter() - start)
        _, tensorboard = running._feeds
        wait_until(lambda: read("stuck") and not tensorboard._rows and not tensorboard._sending)
        leaving = time.monotonic()
    assert time.monotonic() - leaving < 2 + 2
    assert statistics.median(seconds) < 1e-3
    assert said == [
        "tracker wandb was let go after 2 s; it did not take 300 rows; metrics.jsonl has every row"
    ]
    (events,) = (tmp_path / "run" / "tensorboard").glob("events*")
    assert events.read_bytes().count(b"loss") == len(ROWS)
    wait_until(lambda: has_ended(read("stuck")[0][0]))


def test_a_tracker_that_never_finishes_is_let_go(fake_wandb, open_trackers, said, monkeypatch):
    read = fake_wandb(finish="time.sleep(1e6)")
    with open_trackers("wandb") as running:
        running.write(ROWS[0])
        wait_until(lambda: read("row"))
        monkeypatch.setattr(trackers, "EXIT_SECONDS", 1)
    (line,) = said
    assert line.startswith("tracker wandb was let go after 1 s; it took all rows but did not finish; ")
    wait_until(lambda: has_ended(read("open")[0][1]))


def test_a_tracker_that_falls_behind_misses_the_oldest_rows_and_that_is_said_once(
    fake_wandb, open_trackers, said, monkeypatch, tmp_path
):
    monkeypatch.setattr(trackers, "QUEUE_ROWS", 10)
    gate = tmp_path / "gate"
    read = fake_wandb(log=f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)")
    with open_trackers("wandb") as running:
        for row in ROWS:
            running.write(row)
        gate.touch()
    steps = [row["step"] for (row,) in read("row")]
    assert steps[-10:] == list(range(290, 300))
    assert said == [
        "tracker wandb falls behind: 10 rows wait, and the oldest are dropped; metrics.jsonl has every row",
        f"tracker wandb did not take {300 - len(steps)} rows; metrics.jsonl has every row",
    ]


def test_exit_hooks_signal_handlers_and_output_of_a_library_stay_out_of_the_run(
    fake_wandb, open_trackers, said, capfd, tmp_path, monkeypatch
):
    monkeypatch.setattr(tracker_process, "_LINGER_SECONDS", 0.1)
    read = fake_wandb(
        init="atexit.register(time.sleep, 1e6); signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "print('page', flush=True); print('after page', input('account? '))",
    )
    handler = signal.getsignal(signal.SIGINT)
    with open_trackers("wandb"):
        wait_until(lambda: said)
    assert "EOFError" in said[0]  # a prompt finds nobody, and does not wait
    assert signal.getsignal(signal.SIGINT) is handler
    assert "wandb" not in sys.modules
    assert capfd.readouterr() == ("", "")
    assert "page" in (tmp_path / "run" / LOG_FILE).read_text()
    assert read("open") == []


def test_an_exit_hook_that_blocks_does_not_keep_the_process(fake_wandb, open_trackers, said):
    read = fake_wandb(init="atexit.register(time.sleep, 1e6)")
    start = time.monotonic()
    with open_trackers("wandb") as running:
        running.write(ROWS[0])
    assert time.monotonic() - start < trackers.EXIT_SECONDS
    assert said == []
    ((_, pid),) = read("open")
    assert has_ended(pid)


def test_signals_to_the_whole_job_leave_a_tracker_to_write_the_last_rows(fake_wandb, open_trackers, said):
    read = fake_wandb()
    with open_trackers("wandb") as running:
        wait_until(lambda: read("open"))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(read("open")[0][1], number)
        running.write(ROWS[0])
    assert read("row") == [[ROWS[0]]]
    assert said == []


def test_a_tracker_outlives_a_killed_run_by_seconds_at_most(fake_wandb, tmp_path):
    """After kill -9 of a run, its tracker writes what it was given, says that the run failed, and ends."""
    read = fake_wandb()
    program = f"""
        import os, pathlib, signal, time
        from flaxmill.train.metrics.trackers import Trackers
        with Trackers(("wandb",), pathlib.Path({str(tmp_path)!r}), "run", {{}}, print) as running:
            running.write({{"step": 0, "loss": 1.0}})
            while "row" not in pathlib.Path({str(tmp_path / "record")!r}).read_text():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    (tmp_path / "record").touch()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.run([sys.executable, "-c", dedent(program)], env=environment, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    wait_until(lambda: read("finish") == [[1]])
    wait_until(lambda: has_ended(read("open")[0][1]))


def test_a_name_that_lies_in_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(path := tmp_path / "trackers.json")
    assert len(trackers._run_id(path)) == 32
