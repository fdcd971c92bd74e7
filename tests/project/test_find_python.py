"""`.ci/find_python` names an interpreter that runs: on PATH may stand a shim that only prints an error."""

import subprocess
from pathlib import Path

FIND_PYTHON = Path(__file__).resolve().parents[2] / ".ci/find_python"
SHIM = "#!/bin/sh\necho 'python3.13: command not found' >&2\nexit 127\n"
RUNS = "#!/bin/sh\nexit 0\n"


def _find(tmp_path: Path, *versions: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
    return subprocess.run([FIND_PYTHON, *versions], env=environment, capture_output=True, text=True)


def _write(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    path.chmod(0o755)
    return path


def test_the_first_of_the_versions_that_runs_is_named(tmp_path):
    python = _write(tmp_path / "bin/python3.91", RUNS)
    other = _write(tmp_path / "bin/python3.90", RUNS)
    assert _find(tmp_path, "3.92", "3.91", "3.90").stdout == f"{python}\n"
    assert _find(tmp_path, "3.90", "3.91").stdout == f"{other}\n"


def test_a_shim_that_only_prints_an_error_is_passed_over_for_the_version_behind_it(tmp_path):
    _write(tmp_path / "bin/python3.91", SHIM)
    behind = _write(tmp_path / ".pyenv/versions/3.91.4/bin/python", RUNS)
    found = _find(tmp_path, "3.91")
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{behind}\n", "")


def test_without_any_one_line_says_what_to_do(tmp_path):
    _write(tmp_path / "bin/python3.91", SHIM)
    found = _find(tmp_path, "3.91", "3.90")
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (1, "", 1)
    assert "PYTHON=" in found.stderr
