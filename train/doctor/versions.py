"""Whether the packages fit flaxmill and each other, and were tested together."""

import platform
from collections.abc import Iterator

from flaxmill.train.doctor.findings import Finding, listed
from flaxmill.train.doctor.requirements import Packages, Requirement, fits, is_newer
from flaxmill.train.doctor.tested_versions import NEWEST, PYTHON

CHECK = "versions"
_JAX_PARTS = ("jax-", "jax_", "libtpu")
_NOT_SHOWN = ("test", "test-without-torch", "tracking")  # of developers, or the sum of others


def check_versions(packages: Packages, python: str = platform.python_version()) -> Iterator[Finding]:
    """Look at what is installed, importing none of it."""
    core = [need for need in packages.requirements("flaxmill") if need.extra is None]
    problems = [*_unfit(core, packages), *_unfit_together(core, packages)]
    if problems:
        yield from problems
    else:
        yield Finding(CHECK, "ok", _summary(core, packages, python))
    yield from _untested(packages, python)
    yield from _extras(packages)


def _summary(core: list[Requirement], packages: Packages, python: str) -> str:
    names = ["flaxmill", "jax", "jaxlib", *(need.name for need in core if need.name != "jax")]
    return f"Python {python}, " + ", ".join(f"{name} {packages.version(name)}" for name in names)


def _unfit(core: list[Requirement], packages: Packages) -> Iterator[Finding]:
    if not core:
        fix = "install it: pip install -e . in its directory"
        yield Finding(CHECK, "wrong", "flaxmill is not installed, so its requirements are not known", fix)
    for need in core:
        found, fix = packages.version(need.name), f"pip install --upgrade '{need.name}{need.rules}'"
        if found is None:
            yield Finding(CHECK, "wrong", f"{need.name} is not installed, and flaxmill needs it", fix)
        elif not fits(found, need.rules):
            what = f"{need.name} {found} is not what flaxmill needs, {need.name}{need.rules}"
            yield Finding(CHECK, "wrong", what, fix)


def _unfit_together(core: list[Requirement], packages: Packages) -> Iterator[Finding]:
    """What the packages need of each other: above all, jaxlib and the plugins of jax's own version."""
    needing = dict.fromkeys(need.name for need in core)
    plugins = dict.fromkeys(
        need.name for need in packages.requirements("jax") if need.name.startswith(_JAX_PARTS)
    )
    seen = set()
    for package in (*needing, *plugins):
        for need in packages.requirements(package):
            found = packages.version(need.name)
            is_needed = need.extra is None or need.name.startswith(_JAX_PARTS)
            if found is None or not (need.is_bound and is_needed) or fits(found, need.rules):
                continue
            line = f"{need.name} {found} does not fit {package} {packages.version(package)}, which needs "
            line += f"{need.name}{need.rules}"
            if line not in seen:
                seen.add(line)
                yield Finding(CHECK, "wrong", line, f"pip install '{need.name}{need.rules}'")


def _untested(packages: Packages, python: str) -> Iterator[Finding]:
    found = {"Python": (python, PYTHON)} if is_newer(_minor(python), PYTHON) else {}
    for name, tested in NEWEST.items():
        version = packages.version(name)
        if version is not None and is_newer(version, tested):
            found[name] = (version, tested)
    if found:
        words = [f"{name} {version} (tested to {tested})" for name, (version, tested) in found.items()]
        fix = "if something fails, try the tested version"
        yield Finding(CHECK, "remark", f"newer than tested: {listed(words)}", fix)


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])


def _extras(packages: Packages) -> Iterator[Finding]:
    """One remark for extras that are not there, and one for packages that are too old for theirs."""
    missing: dict[str, list[str]] = {}
    old: list[str] = []
    for need in packages.requirements("flaxmill"):
        if need.extra is None or need.extra in _NOT_SHOWN or need.name in ("flaxmill", "jax"):
            continue
        found = packages.version(need.name)
        if found is None:
            missing.setdefault(need.extra, []).append(need.name)
        elif not fits(found, need.rules):
            old.append(f"{need.name} {found} (needs {need.rules})")
    if missing:
        words = [f"{extra} ({', '.join(names)})" for extra, names in missing.items()]
        fix = "pip install 'flaxmill[NAME]' for what you use"
        yield Finding(CHECK, "remark", f"extras not installed: {listed(words, most=20)}", fix)
    if old:
        fix = "pip install --upgrade the packages that you use"
        yield Finding(CHECK, "remark", f"older than the extras need: {listed(sorted(set(old)))}", fix)
