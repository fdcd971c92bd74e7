"""Reading a mutated file ends in a result or one line, never in a traceback or a hang.

A few inputs of each target are read with the other tests; `make fuzz` reads 20,000 of each, and gives 200 to
the command itself. FUZZ_INPUTS and FUZZ_COMMANDS set other numbers, FUZZ_TARGETS names some of the targets,
FUZZ_SEED draws other inputs, and FUZZ_KEPT is where the input of each finding is kept.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzz_outcomes import Finding, attempt
from fuzz_running import Keeper, import_all, make_places, read_inputs
from fuzz_targets import TARGETS
from fuzz_worker import NOW, REPORT

from flaxmill.data.tokenization import Tokenizer

FEW = 25
MANY, COMMANDS = int(os.environ.get("FUZZ_INPUTS", 20_000)), int(os.environ.get("FUZZ_COMMANDS", 200))
CHOSEN = os.environ.get("FUZZ_TARGETS", "").split() or list(TARGETS)
SEED = int(os.environ.get("FUZZ_SEED", 1))
KEPT = Path(os.environ.get("FUZZ_KEPT", "fuzz-findings"))
WORKER = Path(__file__).parents[1] / "support/fuzz_worker.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    directory = tmp_path_factory.mktemp("fuzz")
    make_places(directory)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_few_inputs_end_in_a_result_or_a_line(name, root, tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXMILL_CACHE", str(root / "cache"))
    import_all()
    keeper = Keeper(tmp_path)
    target = TARGETS[name]
    tried = read_inputs(target, target.bases(root), root / "inside", number=FEW, seed=SEED, keeper=keeper)
    assert tried >= FEW
    assert list(keeper.kinds.values()) == []


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    directory = tmp_path_factory.mktemp("fuzz") / "root"
    subprocess.run([sys.executable, WORKER, directory, "--bases", *CHOSEN], check=True, capture_output=True)
    return directory


@pytest.mark.fuzz
@pytest.mark.parametrize("name", CHOSEN)
def test_many_inputs_end_in_a_result_or_a_line(name, workplace, capsys):
    kept = KEPT.absolute() / name
    shutil.rmtree(kept, ignore_errors=True)
    tried, findings = {"inputs": 0, "commands": 0}, {}
    left = {"commands": COMMANDS, "inputs": MANY}
    for kind in left:
        while left[kind] > 0:
            report = fuzz_apart(name, workplace, kind, left[kind], SEED + len(findings), kept)
            tried[kind] += report["tried"]
            left[kind] -= max(1, report["tried"])
            findings |= report["findings"]
    with capsys.disabled():
        print(
            f"\n{name}: {tried['inputs']:,} inputs, {tried['commands']:,} commands, {len(findings)} findings"
        )
    assert not findings, f"inputs in {kept}:\n\n" + "\n\n".join(findings.values())


def fuzz_apart(name: str, root: Path, kind: str, number: int, seed: int, kept: Path) -> dict:
    """{tried, findings} of a worker; if a library ended the worker, that is a finding."""
    (root / REPORT).unlink(missing_ok=True)
    (root / NOW).unlink(missing_ok=True)
    directory = kept / f"{kind}-{seed}"
    command = [sys.executable, WORKER, root, name, kind, str(number), str(seed), directory]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if (root / REPORT).exists():
        return json.loads((root / REPORT).read_text())
    assert (root / NOW).exists(), done.stderr
    case = json.loads((root / NOW).read_text())
    shutil.copytree(root / "inside", directory / "dead", symlinks=True, ignore_dangling_symlinks=True)
    ending = f"the process ended with {done.returncode} at {case}\n{done.stderr[-3000:]}"
    return {"tried": case[0], "findings": {f"dead {seed}": ending}}


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (lambda inside: {}["a"], "KeyError at "),
        (lambda inside: (inside / "../outside/secret").read_text(), "opened "),
        (lambda inside: os.write(2, b"thread panicked at x"), "stderr: panicked at"),
        (lambda inside: (inside / "absent").read_text(), "exit code 1"),
    ],
)
def test_what_must_not_come_of_an_input_is_seen(read, kind, root):
    with pytest.raises(Finding, match=kind):
        attempt(read, root / "inside")


def test_a_hang_is_seen(root, monkeypatch):
    monkeypatch.setattr("fuzz_outcomes.SECONDS", 0.1)
    with pytest.raises(Finding, match="_Hang"):
        attempt(lambda inside: time.sleep(30), root / "inside")


def test_a_mistake_is_a_line_and_a_result_is_none(root):
    read = lambda inside: Tokenizer.load(inside / "absent")  # noqa: E731
    line = attempt(read, root / "inside")
    assert line is not None
    assert line.startswith("flaxmill: error: data.tokenizer=")
    assert attempt(lambda inside: 1, root / "inside") is None


def test_an_input_that_ends_the_process_is_a_finding(root, tmp_path, monkeypatch):
    (worker := tmp_path / "worker.py").write_text(
        "import os, pathlib, sys\n"
        "pathlib.Path(sys.argv[1], 'now.json').write_text('[7, \"it\"]')\n"
        "os.abort()\n"
    )
    monkeypatch.setitem(globals(), "WORKER", worker)
    (root / "inside/it").write_text("x")
    report = fuzz_apart("csv", root, "inputs", 20, 3, tmp_path / "kept")
    assert report["tried"] == 7
    assert "the process ended with -6 at [7, 'it']" in report["findings"]["dead 3"]
    assert (tmp_path / "kept/inputs-3/dead/it").read_text() == "x"
