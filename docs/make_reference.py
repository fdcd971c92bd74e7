"""Writes docs/reference: every command with its flags, and every field of an experiment, from the code.

python docs/make_reference.py
"""

import ast
import dataclasses
import importlib
import inspect
import itertools
import re
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from flaxmill.train.command_line import COMMANDS
from flaxmill.train.experiment import Experiment
from flaxmill.train.terminal.completion import ARGUMENTS

PAGES = Path(__file__).parent / "reference"
MADE = "<!-- made by docs/make_reference.py -->"
HEADER = ["| flag | takes | default | |", "| --- | --- | --- | --- |"]
NO_FLAGS = {"completion": "It takes no flags."}
"""Commands without a dataclass of arguments."""
FIELDS_INTRO = """Every field is a flag of `flaxmill train`, `plan`, `data` and `verify-resume`, and an
argument of its dataclass in a config file: `--optimizer.learning-rate 3e-4` is
`Experiment(optimizer=OptimizerConfig(learning_rate=3e-4))`. The defaults are the dataclass's; a named config
sets its own, which `flaxmill train CONFIG --help` shows. A flag of a list may be repeated, and the value
`None` empties it. A truth value is `--x` or `--no-x`; one that may be `None` is also
`--x True` or `--x None`."""
COMMANDS_INTRO = """`flaxmill COMMAND --help` prints the same. Exit codes: 0 done, 2 a mistake in what was
given, 75 preempted and saved, 128 + a signal's number: ended by it with nothing saved since, 1 anything
else. `train`, `plan`, `data` and `verify-resume` take an experiment: its [fields](fields.md) are flags."""


def main() -> None:
    PAGES.mkdir(exist_ok=True)
    for name, text in make_pages().items():
        (PAGES / name).write_text(text, encoding="utf-8")


def make_pages() -> dict[str, str]:
    """{file name: text}"""
    return {"commands.md": _join(_commands()), "fields.md": _join(_fields())}


def _join(lines: Iterator[str]) -> str:
    return "\n".join([MADE, *lines]) + "\n"


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield COMMANDS_INTRO
    for command, usage in COMMANDS.items():
        arguments, summary = re.split(r"\s{2,}", usage, maxsplit=1)
        yield f"\n## {command}\n"
        yield f"```\nflaxmill {arguments}\n```\n"
        yield f"{summary[0].upper()}{summary[1:]}."
        place = ARGUMENTS.get(command)
        if place is None:
            yield f"\n{NO_FLAGS[command]}"
        elif isinstance(place, str):
            yield from _flags_of(place)
        else:
            for action, of_action in place.items():
                yield f"\n### {command} {action}"
                yield from _flags_of(of_action, action)


def _flags_of(place: str, action: str | None = None) -> Iterator[str]:
    module, _, name = place.partition(":")
    found = importlib.import_module(f"flaxmill.train.{module}")
    described = getattr(found, "DESCRIPTION", None) or getattr(found, "SUMMARIES", {}).get(action)
    if described:
        yield f"\n{_one_line(described)}"
    cls = getattr(found, name)
    rows = list(_rows(cls, ""))
    if rows:
        yield ""
        yield from [*HEADER, *rows]


def _fields() -> Iterator[str]:
    yield "# Fields of an experiment\n"
    yield FIELDS_INTRO
    yield "\n## Experiment\n"
    yield from [*HEADER, *_rows(Experiment, "")]
    for field, cls in _sections(Experiment).items():
        yield f"\n## {field}: {cls.__name__}\n"
        yield f"{_one_line(inspect.getdoc(cls) or '')}\n"
        yield from [*HEADER, *_rows(cls, f"{field}.")]


def _rows(cls: type, prefix: str) -> Iterator[str]:
    """A row for each field that is no dataclass itself."""
    documents, hints = field_documents(cls), get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if not dataclasses.is_dataclass(hint):
            flag = f"--{prefix}{field.name}".replace("_", "-")
            yield f"| `{flag}` | {_takes(hint)} | {_default(field)} | {documents.get(field.name, '')} |"


def _sections(cls: type) -> dict[str, type]:
    hints = get_type_hints(cls)
    return {
        field.name: hints[field.name]
        for field in dataclasses.fields(cls)
        if dataclasses.is_dataclass(hints[field.name])
    }


def field_documents(cls: type) -> dict[str, str]:
    """{field: the text below it in the dataclass, or in one that it inherits from}"""
    found: dict[str, str] = {}
    for each in cls.__mro__[:-1]:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(node, ast.ClassDef)
        for field, below in itertools.pairwise(node.body):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
                found.setdefault(field.target.id, _one_line(str(below.value.value)))
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _takes(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _takes(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_takes(each) for each in arguments)
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin is tuple:
        return f"{_takes(arguments[0])}, repeatable"
    words = {int: "integer", float: "number", str: "text", bool: "truth value", type(None): "`None`"}
    return words[hint]


def _default(field: dataclasses.Field) -> str:
    value = field.default_factory() if callable(field.default_factory) else field.default
    if value is dataclasses.MISSING:
        return ""
    if isinstance(value, tuple):
        return ", ".join(f"`{each}`" for each in value) or "none"
    return f"`{value!r}`" if isinstance(value, str) else f"`{value}`"


if __name__ == "__main__":
    main()
