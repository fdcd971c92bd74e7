"""Requirements of installed packages, as their metadata says them."""

import re
from collections.abc import Callable
from importlib import metadata
from itertools import zip_longest
from typing import NamedTuple

_REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[[^\]]*\])?\s*([^;]*)(?:;\s*(.*))?")
_EXTRA = re.compile(r"extra == [\"']([\w.-]+)[\"']")
_RULE = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*(\d[\w.]*?)(\.\*)?\s*")


class Requirement(NamedTuple):
    """A line such as `jax[tpu]>=0.10.2; extra == "tpu"`.

    Attributes:
      extra: the extra that asks for it; None: it is always needed.
      is_bound: nothing but an extra decides whether it is needed, such as a version of Python.
    """

    name: str
    rules: str
    extra: str | None
    is_bound: bool


class Packages(NamedTuple):
    """What is installed."""

    version: Callable[[str], str | None]
    """The version of a package; None: it is not installed."""
    requirements: Callable[[str], list[Requirement]]
    """What a package needs; nothing where it is not installed."""


def installed_packages() -> Packages:
    """The packages of the running Python."""
    return Packages(_version, _requirements)


def parse_requirement(line: str) -> Requirement:
    """Read a line of `Requires-Dist`; the package's own extras in brackets are left out."""
    found = _REQUIREMENT.match(line)
    assert found is not None, line
    name, rules, marker = found[1], found[2].strip(" ()"), found[3] or ""
    extra = _EXTRA.fullmatch(marker.strip())
    return Requirement(name, rules, extra[1] if extra else None, bool(extra) or not marker)


def fits(version: str, rules: str) -> bool:
    """Whether a version obeys rules such as `>=0.10.1,<=0.10.2` or `==0.0.42.*`; only its numbers count."""
    return all(_obeys(version, rule) for rule in rules.split(",") if rule.strip())


def numbers_of(version: str) -> tuple[int, ...]:
    """0.10.2.dev3 -> (0, 10, 2)"""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def is_newer(version: str, other: str) -> bool:
    """Whether the first version is newer than the second."""
    return _compare(numbers_of(version), numbers_of(other)) > 0


def _obeys(version: str, rule: str) -> bool:
    found = _RULE.fullmatch(rule)
    if found is None:
        return True  # a rule of a kind that none of these packages has
    operator, wanted, any_end = found[1], numbers_of(found[2]), bool(found[3])
    own = numbers_of(version)
    order = _compare(own[: len(wanted)] if any_end else own, wanted)
    obeyed = {
        ">=": order >= 0,
        "<=": order <= 0,
        "==": order == 0,
        "!=": order != 0,
        ">": order > 0,
        "<": order < 0,
    }
    return obeyed[operator]


def _compare(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Below 0, 0 or above 0, as the first is older, the same or newer; missing numbers count as 0."""
    for mine, theirs in zip_longest(one, other, fillvalue=0):
        if mine != theirs:
            return mine - theirs
    return 0


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _requirements(name: str) -> list[Requirement]:
    try:
        lines = metadata.requires(name)
    except metadata.PackageNotFoundError:
        return []
    return [parse_requirement(line) for line in lines or []]
