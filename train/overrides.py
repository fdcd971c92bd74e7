"""Sets fields from the command line, `--model.num-layers 12`: tyro parses them, one line refuses mistakes."""

import contextlib
import copy
import dataclasses
import difflib
import io
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from flaxmill.data.files.local_paths import local_path
from flaxmill.train.terminal.other_names import other_name

Config = TypeVar("Config")

INLINE = tyro.conf.arg(name="")
"""Annotates a nested dataclass whose fields are set without its name before them."""

_REPLACED = {"steps": "epochs"}
"""Flags that say the same in two ways: the first, given alone, empties the other."""
_TRUTH_OR_NONE = bool | None
_MARKERS = (tyro.conf.UseAppendAction, tyro.conf.AvoidSubcommands)


def override(
    default: Config,
    arguments: Sequence[str],
    *,
    program: str,
    usage: str = "",
    description: str | None = None,
) -> Config:
    """`default` with the fields that `arguments` set. `--help` prints all fields and raises SystemExit(0).

    Flags are written with hyphens (underscores work too). A truth value is `--x` or `--no-x`; one that may
    be None is also `--x True`, `--x False` or `--x None`. A flag of a list appends to it and may be repeated;
    the value None empties the list first. --steps empties `epochs`. Errors call the command `program`, and in
    the help `usage` follows it, before its flags. Without a `description` the help opens with the docstring
    of the config.

    Raises:
      ValueError: an unknown field, a missing or bad value, or values that the config itself refuses.
    """
    settings: dict[str, Any] = {"prog": f"{program} {usage}".strip(), "config": _MARKERS}
    types_of_flags = flag_types(type(default))
    if "--help" in arguments or "-h" in arguments:
        described = (description or type(default).__doc__ or "") + _about_lists(types_of_flags)
        tyro.cli(type(default), args=["--help"], description=described, default=default, **settings)
    normalised, emptied = _read_flags(list(arguments), types_of_flags, program)
    default = _with_emptied(default, emptied | _replaced(normalised, types_of_flags))
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(type(default), args=normalised, default=default, **settings)
    except SystemExit as stop:
        _raise_cause(stop, complaint.getvalue())


def take_paths(arguments: Sequence[str], *names: str, program: str) -> tuple[list[Path], list[str]]:
    """The paths that come first, one for each name, and the other arguments.

    Raises:
      ValueError: there are fewer or more, unless help is asked for.
    """
    flags_from = next((i for i, text in enumerate(arguments) if text.startswith("-")), len(arguments))
    paths, flags = list(arguments[:flags_from]), list(arguments[flags_from:])
    if "--help" in flags or "-h" in flags:
        paths = [*names]
    if len(paths) != len(names):
        given = f"{len(paths)} given" if paths else "none given"
        raise ValueError(f"{' and '.join(names)} come first, {given}: {program} {' '.join(names)}")
    return [local_path(path, name) for path, name in zip(paths, names, strict=True)], flags


def flag_types(cls: type, prefix: str = "") -> dict[str, Any]:
    """{flag without its leading hyphens: type of its field} of a dataclass of dataclasses."""
    flags = {}
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        name, hint = field.name.replace("_", "-"), hints[field.name]
        inline = INLINE in get_args(hint)
        hint = get_args(hint)[0] if inline else hint
        if dataclasses.is_dataclass(hint):
            flags |= flag_types(hint, prefix if inline else f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            flags[prefix + name] = hint
            if hint in (bool, _TRUTH_OR_NONE):
                flags[f"{prefix}no-{name}"] = bool
    return flags


def _about_lists(types_of_flags: dict[str, Any]) -> str:
    flags = [flag for flag, hint in types_of_flags.items() if _is_list(hint)]
    if not flags:
        return ""
    return (
        " A repeatable flag adds one value to a list, and the value None empties the list: "
        f"--{flags[0]} None."
    )


def _is_list(hint: Any) -> bool:
    return get_origin(hint) is tuple


def _with_emptied(config: Config, emptied: set[str], prefix: str = "") -> Config:
    """The config with these lists empty, and these values None; unchecked, as it is checked once all flags
    are set."""
    bare = copy.copy(config)
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        flag, value = prefix + field.name.replace("_", "-"), getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            inline = INLINE in get_args(hints[field.name])
            object.__setattr__(
                bare, field.name, _with_emptied(value, emptied, prefix if inline else f"{flag}.")
            )
        elif flag in emptied:
            object.__setattr__(bare, field.name, () if isinstance(value, tuple) else None)
    return bare


def _replaced(normalised: list[str], types_of_flags: dict[str, Any]) -> set[str]:
    """The flags whose values others replace, which are given without them.

    Raises ValueError where both are given, and say two things.
    """
    parts = (argument[2:].partition("=") for argument in normalised)
    given = {flag: value for flag, _, value in parts}
    both = [(flag, other) for flag, other in _REPLACED.items() if flag in given and other in types_of_flags]
    for flag, other in both:
        if given.get(other, "None") != "None":
            raise ValueError(
                f"--{flag} {given[flag]} and --{other} {given[other]} both say how long to train; give one"
            )
    return {other for _, other in both}


def _read_flags(
    arguments: list[str], types_of_flags: dict[str, Any], program: str
) -> tuple[list[str], set[str]]:
    """Check each flag and its value, and write them in the form that tyro cannot misread: --flag=value.

    Returns:
      the flags in that form, and the flags of the lists that are to be emptied first.
    """
    normalised: list[str] = []
    emptied: set[str] = set()
    previous = ""
    while arguments:
        argument = arguments.pop(0)
        if not argument.startswith("--"):
            _refuse_stray(argument, previous, types_of_flags, program)
        name, equals, value = argument[2:].partition("=")
        flag = name.replace("_", "-")
        if flag not in types_of_flags:
            _refuse_unknown(name, types_of_flags, program)
        if types_of_flags[flag] is bool:
            if equals:
                raise ValueError(f"--{flag}={value}: {_without_value(flag)}")
            normalised.append(_switch(flag, types_of_flags))
        elif types_of_flags[flag] == _TRUTH_OR_NONE and not equals and _has_no_value(arguments):
            normalised.append(f"--{flag}=True")
        else:
            if not equals:
                if _has_no_value(arguments):
                    raise ValueError(f"--{flag} has no value; give it {_allowed(types_of_flags[flag])}")
                value = arguments.pop(0)
            if value == "None" and _is_list(types_of_flags[flag]):
                emptied.add(flag)
                normalised = [given for given in normalised if not given.startswith(f"--{flag}=")]
            else:
                _check_value(flag, types_of_flags[flag], value)
                normalised.append(f"--{flag}={value}")
        previous = flag
    return normalised, emptied


def _has_no_value(arguments: list[str]) -> bool:
    """Whether another flag, or nothing, follows."""
    return not arguments or arguments[0].startswith("--")


def _switch(flag: str, types_of_flags: dict[str, Any]) -> str:
    """--x or --no-x, which tyro takes as --x=False where x may also be None."""
    prefix, dot, leaf = flag.rpartition(".")
    positive = f"{prefix}{dot}{leaf.removeprefix('no-')}"
    return f"--{positive}=False" if types_of_flags.get(positive) == _TRUTH_OR_NONE else f"--{flag}"


def _refuse_stray(argument: str, previous: str, types_of_flags: dict[str, Any], program: str) -> NoReturn:
    hint = types_of_flags.get(previous)
    if hint is bool:
        raise ValueError(f"--{previous} {argument}: {_without_value(previous)}")
    if _is_list(hint):
        raise ValueError(f"unexpected {argument!r}; a list takes its flag again: --{previous} {argument}")
    raise ValueError(f"unexpected {argument!r}; fields are set as --field value, see `{program} --help`")


def _refuse_unknown(name: str, types_of_flags: dict[str, Any], program: str) -> NoReturn:
    word = name.replace("_", "-").lower()
    if "steps" in types_of_flags and (ours := other_name(word)):
        raise ValueError(f"unknown field --{name}; {ours} (`{program} --help` lists all fields)")
    leaf = word.rpartition(".")[2]
    same_leaf = [flag for flag in types_of_flags if flag.rpartition(".")[2] == leaf]
    leaves = {flag.rpartition(".")[2]: flag for flag in types_of_flags}
    near = (
        same_leaf[:3]
        or difflib.get_close_matches(word, types_of_flags, n=1, cutoff=0.7)
        or [leaves[close] for close in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.7)]
    )
    question = f"did you mean {' or '.join('--' + flag for flag in near)}? " if near else ""
    raise ValueError(f"unknown field --{name}; {question}`{program} --help` lists all fields")


def _without_value(flag: str) -> str:
    prefix, dot, leaf = flag.rpartition(".")
    leaf = leaf.removeprefix("no-")
    return f"a truth value takes no argument; write --{prefix}{dot}{leaf} or --{prefix}{dot}no-{leaf}"


def _check_value(flag: str, hint: Any, value: str) -> None:
    if str in (hint, *get_args(hint)):
        return  # any text will do, even one that begins with a hyphen
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            tyro.cli(hint, args=[value], add_help=False)
    except SystemExit:
        raise ValueError(f"--{flag}={value} is refused; give it {_allowed(hint)}") from None


def _allowed(hint: Any) -> str:
    """The values that a type allows, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_allowed(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        return _allowed(arguments[0])
    words = {int: "an integer", float: "a number", str: "a text", bool: "True or False", type(None): "None"}
    return words.get(hint, str(hint))


def _raise_cause(stop: SystemExit, complaint: str) -> NoReturn:
    """Raise the config's own ValueError again: tyro has turned it into a box and an exit."""
    cause: BaseException | None = stop
    while cause is not None and not isinstance(cause, ValueError):
        cause = cause.__context__
    text = str(cause) if cause else " ".join(complaint.translate(_FRAMES).split())
    raise ValueError(text) from None


_FRAMES = {ord(character): " " for character in "╭╮╰╯─│|"}
