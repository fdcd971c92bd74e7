"""Versions: each way in which packages do not fit is one line with its fix."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest

from flaxmill.train.doctor.requirements import Packages, fits, is_newer, parse_requirement
from flaxmill.train.doctor.tested_versions import NEWEST, PYTHON
from flaxmill.train.doctor.versions import check_versions

ROOT = Path(__file__).resolve().parents[3]
NEEDS = {
    "flaxmill": [
        "jax>=0.10.2",
        "numpy>=2.0",
        'jinja2>=3.1; extra == "chat"',
        'torch>=2.13; extra == "parity"',
        'pytest>=9; extra == "test"',
    ],
    "jax": ["jaxlib<=0.10.2,>=0.10.1", 'libtpu==0.0.42.*; extra == "tpu"', "tomli>=9; python_version < '3'"],
    "numpy": [],
}
VERSIONS = {"flaxmill": "0.1.0", "jax": "0.10.2", "jaxlib": "0.10.2", "numpy": "2.4", "jinja2": "3.1.6"}


def findings(python="3.11.7", **changes):
    """{state: lines} for the versions above with these changes; None: not installed."""
    versions = {name: version for name, version in (VERSIONS | changes).items() if version is not None}
    packages = Packages(
        versions.get,
        lambda name: [parse_requirement(line) for line in NEEDS.get(name, []) if name in versions],
    )
    found = list(check_versions(packages, python))
    assert all(finding.check == "versions" for finding in found)
    return {
        state: [(one.what, one.fix) for one in found if one.state == state]
        for state in ("ok", "remark", "wrong")
    }


def test_packages_that_fit_are_one_line_and_a_missing_extra_another():
    said = findings()
    assert said["wrong"] == []
    assert said["ok"] == [("Python 3.11.7, flaxmill 0.1.0, jax 0.10.2, jaxlib 0.10.2, numpy 2.4", None)]
    fix = "pip install 'flaxmill[NAME]' for what you use"
    assert said["remark"] == [("extras not installed: parity (torch)", fix)]


@pytest.mark.parametrize(
    ("changes", "line", "fix"),
    [
        (
            {"jax": "0.9.1"},
            "jax 0.9.1 is not what flaxmill needs, jax>=0.10.2",
            "pip install --upgrade 'jax>=0.10.2'",
        ),
        (
            {"numpy": None},
            "numpy is not installed, and flaxmill needs it",
            "pip install --upgrade 'numpy>=2.0'",
        ),
        (
            {"jaxlib": "0.10.0"},
            "jaxlib 0.10.0 does not fit jax 0.10.2, which needs jaxlib<=0.10.2,>=0.10.1",
            "pip install 'jaxlib<=0.10.2,>=0.10.1'",
        ),
        (
            {"libtpu": "0.0.40"},
            "libtpu 0.0.40 does not fit jax 0.10.2, which needs libtpu==0.0.42.*",
            "pip install 'libtpu==0.0.42.*'",
        ),
    ],
)
def test_what_does_not_fit_is_wrong(changes, line, fix):
    said = findings(**changes)
    assert said["wrong"] == [(line, fix)]
    assert said["ok"] == []


def test_flaxmill_that_is_not_installed_is_wrong():
    assert "flaxmill is not installed" in findings(flaxmill=None)["wrong"][0][0]


def test_newer_than_tested_is_a_remark():
    said = findings(python="3.99.1", numpy="99.0", jinja2="3.1.6", torch="2.13")
    line = f"newer than tested: Python 3.99.1 (tested to {PYTHON}), numpy 99.0 (tested to {NEWEST['numpy']})"
    assert said["remark"] == [(line, "if something fails, try the tested version")]
    assert said["wrong"] == []


def test_an_extra_that_is_too_old_is_a_remark():
    said = findings(torch="2.5.1")
    assert said["remark"] == [
        (
            "older than the extras need: torch 2.5.1 (needs >=2.13)",
            "pip install --upgrade the packages that you use",
        )
    ]


def test_a_package_of_an_extra_that_another_python_needs_is_not_looked_at():
    assert findings(tomli="1.0")["wrong"] == []


def test_the_tested_versions_are_those_of_the_core_packages():
    with (ROOT / "pyproject.toml").open("rb") as file:
        needs = [parse_requirement(line) for line in tomllib.load(file)["project"]["dependencies"]]
    assert [need.name for need in needs] == list(NEWEST)
    assert [need.name for need in needs if not fits(NEWEST[need.name], need.rules)] == []


@pytest.mark.parametrize("name", NEWEST)
def test_what_the_tests_run_with_is_in_the_table(name):
    installed = importlib.metadata.version(name)
    if is_newer(installed, NEWEST[name]):  # a release of today must not fail a clone of yesterday
        pytest.skip(f"{name} {installed}: if all tests pass, write it into tested_versions.py")
