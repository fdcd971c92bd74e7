"""Tutorials as a reader follows them: the commands of a page, one after the other, in one shell.

A page's blocks ```console are transcripts. Lines that begin with `$ ` are commands, with the lines that a
backslash joins to them; the lines below are what the command prints, errors included. `...` stands for
anything, alone for any number of lines. Whole numbers are those that are printed; numbers with a decimal
point, a time (0:19) or a unit (24k) differ between machines. A command ends with code 0, unless the next one
is `echo $?`, which then prints its code. What a command prints is compared if the page shows anything of it.
`pip install` is not run: its packages must be there.
"""

import importlib.metadata
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ANYTHING = "..."
_VARYING = re.compile(r"\d+:\d\d(?::\d\d)?|\d[\d,]*\.\d+(?:e[-+]?\d+)?[kMGB]?|\d+[kMGB]\b|\d+e-\d+")
_NUMBER = r"\d[\d.,:]*(?:e[-+]?\d+)?[kMGB]?"
_END = "the end of a command:"


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is typed, the lines that the page shows below it, and whether the exit code is asked for."""

    text: str
    shown: tuple[str, ...]
    may_fail: bool = False


def commands_of(page: str) -> list[Command]:
    """The commands of a page, in order."""
    typed: list[tuple[str, list[str]]] = []
    for block in _BLOCK.findall(page):
        assert block.startswith("$ "), f"a block begins with a command, not with {block.splitlines()[0]!r}"
        continued = False
        for line in block.splitlines():
            if continued:
                typed[-1] = (f"{typed[-1][0]}\n{line}", typed[-1][1])
            elif line.startswith("$ "):
                typed.append((line[2:], []))
            else:
                typed[-1][1].append(line)
            continued = line.endswith("\\") and not typed[-1][1]
    following = [text for text, _ in typed[1:]] + [""]
    return [
        Command(text=text, shown=tuple(shown), may_fail=after == "echo $?")
        for (text, shown), after in zip(typed, following, strict=True)
    ]


def follow(page: Path, directory: Path, environment: Mapping[str, str]) -> Iterator[tuple[Command, int, str]]:
    """Run a page's commands in a directory, in one shell; yields each, its exit code and its output."""
    shell = subprocess.Popen(
        ["bash"],
        cwd=directory,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    with shell, shell.stdin as typed:
        for command in commands_of(page.read_text(encoding="utf-8")):
            if command.text.startswith("pip install "):
                _require_packages(command.text)
                continue
            # The exit code is given back, for `echo $?`.
            typed.write(
                f'{{ {command.text}\n}} </dev/null; code=$?; echo; echo "{_END}$code"; (exit $code)\n'
            )
            typed.flush()
            printed: list[str] = []
            for line in shell.stdout:
                if line.startswith(_END):
                    yield command, int(line.removeprefix(_END)), "".join(printed)[:-1]
                    break
                printed.append(line)
            else:
                raise AssertionError(f"the shell ended at {command.text!r}: {''.join(printed)}")


def difference(command: Command, code: int, printed: str) -> str | None:
    """Where what was printed is not what the page shows; None if it is."""
    if code != 0 and not command.may_fail:
        return f"$ {command.text}\n{printed}exit code {code}"
    lines = printed.splitlines()
    pattern = "".join(
        r"(?:.*\n)*?" if line == _ANYTHING else _pattern(line) + r"\n"
        for line in _without_blank_ends(command.shown)
    )
    if command.shown and not re.fullmatch(
        pattern, "".join(f"{line}\n" for line in _without_blank_ends(lines))
    ):
        shown = "\n".join(command.shown)
        return f"$ {command.text}\nthe page shows\n{shown}\nand this was printed\n{printed}"
    return None


def _pattern(line: str) -> str:
    """A regular expression for a line of the page."""
    parts = []
    for part in re.split(r"(\.\.\.)", line.rstrip()):
        if part == _ANYTHING:
            parts.append(".*")
            continue
        end = 0
        for number in _VARYING.finditer(part):
            parts += [_words(part[end : number.start()]), _NUMBER]
            end = number.end()
        parts.append(_words(part[end:]))
    return "".join(parts) + r"[ \t]*"


def _words(text: str) -> str:
    """Columns of a table are as wide as what stands in them."""
    return "".join(" +" if part.isspace() else re.escape(part) for part in re.split(r"( +)", text) if part)


def _without_blank_ends(lines: list[str] | tuple[str, ...]) -> list[str]:
    return list("\n".join(lines).strip("\n").split("\n"))


def _require_packages(command: str) -> None:
    """Every package that a reader is told to install is installed here."""
    for word in shlex.split(command)[2:]:
        name = "flaxmill" if word.startswith(".") else re.split(r"[\[<>=]", word)[0]
        if not word.startswith("-"):
            importlib.metadata.distribution(name)
