"""The wheel holds every module: a folder that pyproject.toml does not list would be silently absent."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("model", "sharding", "data", "train", "configs")

IMPORT_ALL = """
import importlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
for path in sorted((root / "flaxmill").rglob("*.py")):
    name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    assert pathlib.Path(module.__file__) == path, (name, module.__file__)
    print(name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    # A copy, since a build leaves behind files that a later build would pick up.
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    wheels = tmp_path_factory.mktemp("wheels")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(wheels),
        str(source),
    ]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(wheels.glob("*.whl"))


@pytest.mark.slow
def test_wheel_holds_every_module(wheel):
    written = {
        f"flaxmill/{path.relative_to(ROOT)}" for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    assert packed == written


@pytest.mark.slow
def test_wheel_holds_what_the_report_is_made_of(wheel):
    written = {
        f"flaxmill/{path.relative_to(ROOT)}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".css", ".js")
    }
    assert written
    assert written <= set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_every_module_of_the_wheel_imports_from_elsewhere(wheel, tmp_path):
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
    ]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, str(target)],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == sum(1 for folder in FOLDERS for _ in (ROOT / folder).rglob("*.py"))
