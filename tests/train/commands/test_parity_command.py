"""`flaxmill parity` prints what it compared, and its exit code says whether all was inside."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flaxmill.model import layer
from flaxmill.train.command_line import main
from flaxmill.train.loop import train
from flaxmill.train.parity import comparison as parity
from flaxmill.train.parity import flaxmill_side as parity_measure
from flaxmill.train.parity.comparison import ParityCheck, ParityDifference, Rounding
from flaxmill.train.parity.small_models import make_reference

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference")
    make_reference("llama", path)
    return path


def run(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["parity", *map(str, arguments)])
    assert isinstance(stop.value.code, int)
    return stop.value.code


INSIDE = ParityCheck("logits", "outputs", "right", ParityDifference(1e-6, 1e-7, {"logits": 1e-6}))
BY_ROUNDING = ParityCheck(
    "gradients",
    "gradients",
    "packed",
    ParityDifference(1e-9, 3e-4, {"h.0.key.bias": 3e-4, "wte": 1e-6}),
    Rounding({"h.0.key.bias": 1e-12}, {"h.0.key.bias": 2e-4}),
)
OUTSIDE = ParityCheck(
    "hidden",
    "outputs",
    "left",
    ParityDifference(np.nan, np.nan, {"hidden": np.nan}),
    Rounding({"hidden": 0.5}, {"hidden": 1e-7}),
)


def plant(monkeypatch: pytest.MonkeyPatch, *checks: ParityCheck) -> None:
    monkeypatch.setattr(parity, "compare_directory", lambda directory, **_: iter(checks))


def test_table_shows_differences_tolerances_and_reasons(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    plant(monkeypatch, INSIDE, BY_ROUNDING)
    assert run(directory) == 0
    printed, errors = capsys.readouterr()
    assert not errors
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.split() == ["right", "1.0e-06", "1.0e-07", "2e-05", "abs.", "inside"] for line in lines)
    assert any(line.endswith("inside (rounding)") for line in lines)
    assert "float32 holds 7 digits" in printed
    assert "float64 judges 1 of 2 tensors; the other 1: 1.0e-06; furthest: h.0.key.bias" in printed
    assert "float64 1.0e-12, tolerance 1e-09; float32 3.0e-04, at most 10 x torch's own largest" in printed
    assert lines[-1] == "all 2 are inside"


def test_anything_outside_is_exit_code_1_after_the_table(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    plant(monkeypatch, INSIDE, OUTSIDE)
    assert run(directory) == 1
    printed, errors = capsys.readouterr()
    assert printed.splitlines()[-1] == "1 of 2 are OUTSIDE"
    assert errors.count("\n") == 1
    assert "first hidden of batch left" in errors


def test_json_is_one_object_without_nan(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    plant(monkeypatch, BY_ROUNDING, OUTSIDE)
    assert run(directory, "--json") == 1
    described = json.loads(capsys.readouterr().out)
    assert not described["inside"]
    rounding, outside = described["checks"]
    assert rounding["inside"]
    assert rounding["tensors"] == {"h.0.key.bias": 3e-4, "wte": 1e-6}
    assert rounding["float64"]["torch_float32_to_float64"] == {"h.0.key.bias": 2e-4}
    assert outside["outside"] == ["hidden"]
    assert outside["absolute"] is None


def test_what_is_not_installed_is_named_with_the_fix(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert run(directory) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "transformers is not installed" in errors
    assert "pip install 'flaxmill[parity]'" in errors


@pytest.mark.parametrize("arguments", [(), ("--json",), ("nowhere",), (".", "--sed", "1")])
def test_mistakes_end_in_one_line(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("flaxmill: error: ")
    assert errors.count("\n") == 1


@pytest.mark.slow
def test_real_comparison_passes_and_a_planted_fault_fails(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run(directory, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    checks = {(check["quantity"], check["batch"]) for check in described["checks"]}
    assert {("logits", "packed"), ("gradients", "left"), ("parameters after 5 steps", "right")} <= checks
    monkeypatch.setattr(layer, "rotary", lambda x, turns: x)
    assert run(directory) == 1
    assert "OUTSIDE" in capsys.readouterr().out


@pytest.mark.slow
def test_run_directory_is_exported_and_compared(make_experiment: Any, capsys: pytest.CaptureFixture[str]):
    experiment = make_experiment(steps=2)
    train(experiment)
    capsys.readouterr()
    assert run(experiment.run_dir, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["directory"] == experiment.run_dir
    assert described["family"] == "gpt2"


def test_buffers_are_not_trained(tmp_path: Path):
    make_reference("marian", tmp_path)
    ours = parity.Sides(tmp_path).ours
    assert parity_measure._frozen_paths(ours.config) == {"lm_head/bias"}
    assert "final_logits_bias" not in ours.parameters()
