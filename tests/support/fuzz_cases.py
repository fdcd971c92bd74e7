"""An input of a target: a directory in which one file has been changed, or some files were moved."""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fuzz_mutations import Change, Draw, mutate
from fuzz_outcomes import empty
from fuzz_runs import MOVES, move
from hypothesis import strategies as st

Read = Callable[[Path, int], object]


class Case(NamedTuple):
    """A directory to begin with, its files with changed content, and a number that chooses how it is read."""

    base: Path
    changed: dict[str, bytes]
    variant: int
    moved: tuple[tuple[str, str, str], ...] = ()
    """(what is done, to which file, with which other file)."""


class Target(NamedTuple):
    """One kind of file.

    bases: makes the directories that cases begin with.
    files: globs of the files that are changed in them; none: files are moved and not changed.
    commands: command lines that read the directory, written {inside}; the variant chooses one.
    """

    bases: Callable[[Path], Sequence[Path]]
    files: Sequence[str]
    changes: Sequence[Change]
    read: Read
    commands: Sequence[str]


def make_cases(target: Target, bases: Sequence[Path]) -> st.SearchStrategy[Case]:
    """A base in which one file has been changed, or several were moved."""
    return _changed(target, bases) if target.files else _moved(bases)


def _changed(target: Target, bases: Sequence[Path]) -> st.SearchStrategy[Case]:
    files = [
        (base, str(file.relative_to(base)))
        for base in bases
        for pattern in target.files
        for file in sorted(base.glob(pattern))
        if file.is_file()
    ]
    contents = {(base, name): (base / name).read_bytes() for base, name in files}

    @st.composite
    def make(draw: Draw) -> Case:
        base, name = draw(st.sampled_from(files))
        content = contents[base, name]
        alike = [other for (_, of), other in contents.items() if of == name]
        data = mutate(draw, target.changes, content, alike)
        return Case(base, {name: data}, draw(st.integers(0, 63)))

    return make()


def _moved(bases: Sequence[Path]) -> st.SearchStrategy[Case]:
    """One to three files or folders are missing, doubled or of another kind."""
    names = {base: sorted(str(path.relative_to(base)) for path in base.rglob("*")) for base in bases}

    @st.composite
    def make(draw: Draw) -> Case:
        base = draw(st.sampled_from(bases))
        name = st.sampled_from(names[base])
        moves = draw(st.lists(st.tuples(st.sampled_from(MOVES), name, name), min_size=1, max_size=3))
        return Case(base, {}, draw(st.integers(0, 63)), tuple(moves))

    return make()


def place(case: Case, inside: Path) -> None:
    """Lay the case's files out in the directory `inside`."""
    empty(inside)
    shutil.copytree(case.base, inside, dirs_exist_ok=True)
    for name, data in case.changed.items():
        (inside / name).write_bytes(data)
    for how, name, other in case.moved:
        with contextlib.suppress(OSError):  # an earlier move may have made this one impossible
            move(how, inside / name, inside / other)
