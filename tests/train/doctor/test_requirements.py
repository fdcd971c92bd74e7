"""Requirements as metadata spell them, and versions that fit them or do not."""

import pytest

from flaxmill.train.doctor.requirements import (
    Requirement,
    fits,
    installed_packages,
    is_newer,
    parse_requirement,
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("jax>=0.10.2", Requirement("jax", ">=0.10.2", None, True)),
        ('jax[tpu]>=0.10.2; extra == "tpu"', Requirement("jax", ">=0.10.2", "tpu", True)),
        ("jaxlib (<=0.10.2,>=0.10.1)", Requirement("jaxlib", "<=0.10.2,>=0.10.1", None, True)),
        ("opt_einsum", Requirement("opt_einsum", "", None, True)),
        ("tomli>=1; python_version < '3.11'", Requirement("tomli", ">=1", None, False)),
        ("libtpu==0.0.42.*; extra == 'tpu'", Requirement("libtpu", "==0.0.42.*", "tpu", True)),
    ],
)
def test_a_line_of_metadata_is_read(line, expected):
    assert parse_requirement(line) == expected


@pytest.mark.parametrize(
    ("version", "rules", "expected"),
    [
        ("0.10.2", ">=0.10.2", True),
        ("0.10.10", ">=0.10.2", True),
        ("0.9.9", ">=0.10.2", False),
        ("2", ">=2.0", True),
        ("0.12.0.1", "<=0.12.0.1,>=0.11.2", True),
        ("0.12.1", "<=0.12.0.1,>=0.11.2", False),
        ("0.0.42.3", "==0.0.42.*", True),
        ("0.0.43", "==0.0.42.*", False),
        ("2.13.0+cpu", "==2.13.0", True),
        ("1.2", "!=1.2", False),
        ("1.2", ">1.2", False),
        ("1.2", "<1.3", True),
        ("1.2", "", True),
    ],
)
def test_rules_decide_by_numbers(version, rules, expected):
    assert fits(version, rules) is expected


def test_newer_compares_numbers_and_not_letters():
    assert is_newer("0.12.10", "0.12.9")
    assert not is_newer("0.12", "0.12.0")


def test_the_running_python_is_read():
    packages = installed_packages()
    assert packages.version("jax")
    assert packages.version("no-such-package") is None
    assert packages.requirements("no-such-package") == []
    assert "jaxlib" in [need.name for need in packages.requirements("jax")]
