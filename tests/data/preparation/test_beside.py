"""A process that prepares data beside this one: the same data, every line and error, and no process left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.files.own_rows import define_text
from flaxmill.data.preparation.beside import run_beside
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.preparation.means import Means
from flaxmill.data.preparation.work_directory import UnfinishedError

# The functions that processes of these tests run; each imports this module.


def tell(number, log):
    log(f"{number} in {os.getpid()}")
    if number == 13:
        raise ValueError("13 is unlucky")
    if number == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 19:
        raise KeyError("a fault")


def wait_long(log):
    log(str(os.getpid()))
    time.sleep(600)


@pytest.fixture
def beside(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import test_beside

    return test_beside


def files_of(dataset):
    """{path: bytes}"""
    paths = sorted(path for path in dataset.directory.rglob("*") if path.is_file())
    return {path.relative_to(dataset.directory): path.read_bytes() for path in paths}


def wait_for_end(process):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError(f"process {process} still runs")


def test_its_lines_come_from_a_process_of_its_own_which_then_ends(beside):
    lines = []
    run_beside(beside.tell, 5, log=lines.append)
    (line,) = lines
    number, process = line.split(" in ")
    assert number == "5"
    assert int(process) != os.getpid()
    wait_for_end(int(process))


@pytest.mark.parametrize(
    ("number", "kind", "problem"),
    [
        (13, ValueError, "^13 is unlucky$"),
        (17, UnfinishedError, "was killed, perhaps since memory ran out; the same command"),
        (19, RuntimeError, "in tell\n.*raise KeyError.*a fault"),
    ],
)
def test_its_errors_are_raised_here(beside, number, kind, problem):
    lines = []
    with pytest.raises(kind, match=f"(?s){problem}"):
        run_beside(beside.tell, number, log=lines.append)
    assert len(lines) == 1


def test_what_the_log_raises_ends_it(beside):
    lines = []

    def stop(line):
        lines.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_beside(beside.wait_long, log=stop)
    wait_for_end(int(lines[0]))


def test_it_ends_with_a_killed_parent(beside):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_beside; from flaxmill.data.preparation.beside import run_beside\n"
        "run_beside(test_beside.wait_long, log=lambda line: print(line, flush=True))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        process = int(parent.stdout.readline())
        parent.kill()
    wait_for_end(process)


@pytest.mark.parametrize("objective", ["causal", "classification"])
def test_the_dataset_is_the_same_and_each_line_is_said_once(objective, tmp_path):
    (tmp_path / "texts").mkdir()
    if objective == "causal":
        for name in "abc":
            (tmp_path / "texts" / f"{name}.txt").write_text(f"{name} word of text\n\n" * 300)
        (tmp_path / "texts" / "copy.txt").write_text((tmp_path / "texts" / "a.txt").read_text())
        (tmp_path / "texts" / "picture.png").write_bytes(b"\x89PNG")
        files = (str(tmp_path / "texts"),)
    else:
        rows = "".join(f'"a text of number {k}","{"ab"[k % 2]}"\n' for k in range(60))
        (tmp_path / "texts" / "rows.csv").write_text("text,label\n" + rows)
        files = (str(tmp_path / "texts" / "rows.csv"),)
    config = DataConfig(files=files, sequence_length=16, vocab_size=300)
    here, beside = [], []
    one = prepare(config, objective, cache=tmp_path / "one", log=here.append)
    two = prepare(config, objective, cache=tmp_path / "two", log=beside.append, means=Means(beside=True))

    def same(lines, cache):
        return [line.replace(str(tmp_path / cache), "").rpartition(" in ")[0] or line for line in lines]

    assert same(beside, "two") == same(here, "one")
    assert len(here) > 2
    assert files_of(two) == files_of(one)


def test_a_bad_file_is_refused_as_here(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xfd" * 100)
    config = DataConfig(files=(str(tmp_path / "bad.txt"),), sequence_length=16, vocab_size=300)
    problems = []
    for means in (Means(), Means(beside=True)):
        with pytest.raises(ValueError, match=r"bad\.txt") as caught:
            prepare(config, "causal", cache=tmp_path / "cache", log=lambda line: None, means=means)
        problems.append(str(caught.value))
    assert problems[0] == problems[1]


def test_what_this_process_alone_has_defined_is_made_here(tmp_path):
    import fsspec

    texts = [f"text {k} of a list" for k in range(200)]
    own = define_text("own", texts)
    fsspec.filesystem("memory").pipe("/beside/own.txt", "\n\n".join(texts).encode())
    for spec in (own, "memory://beside/own.txt"):
        config = DataConfig(files=(spec,), sequence_length=16, vocab_size=300)
        dataset = prepare(config, "causal", cache=tmp_path, log=lambda line: None, means=Means(beside=True))
        assert dataset.statistics["train"]["num_tokens"] > 500
