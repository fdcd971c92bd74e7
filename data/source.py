"""A source of a mixture as users write it, and a change of weights at a step."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from flaxmill.data.messages import did_you_mean

_SOURCE = re.compile(
    r"(?P<name>[^=:@]*)(?:=(?P<weight>[^=:@]*))?(?:@(?P<epochs>[^=:@]*))?:(?P<spec>.*)", re.S
)
# A spec without a name, whose beginning would be taken for one.
_SCHEME = re.compile("(tfds|embedded|python):|[a-z0-9]+://")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FORM = "NAME=WEIGHT:FILES, as in web=0.7:web/*.txt, or NAME=WEIGHT@EPOCHS:FILES"
_CHANGE_FORM = "STEP:NAME=WEIGHT,NAME=WEIGHT, as in 8000:web=0.2,books=0.8"


class ParsedSource(NamedTuple):
    """The parts of a source.

    weight: its share of the rows, relative to those of the other sources.
    epochs: how often its rows are read at most; None: as often as the run needs.
    spec: files, a glob, a directory or whatever else `data.files` may name.
    """

    name: str
    weight: float
    epochs: float | None
    spec: str


class ParsedChange(NamedTuple):
    """Weights that hold from a step on; sources that are not named keep theirs."""

    step: int
    weights: Mapping[str, float]


class Source(str):
    """A source in an experiment file: `Source("web", "web/*.txt", weight=0.7)`.

    It is the text that the command line takes, `web=0.7:web/*.txt`, so that configs are stored alike.
    """

    __slots__ = ()

    def __new__(cls, name: str, spec: str, *, weight: float = 1, epochs: float | None = None) -> "Source":
        limit = "" if epochs is None else f"@{epochs:g}"
        text = f"{name}={weight!r}{limit}:{spec}"
        parse_source(text)
        return super().__new__(cls, text)


def parse_source(text: str, field: str = "data.sources") -> ParsedSource:
    """The parts of NAME=WEIGHT@EPOCHS:SPEC, where =WEIGHT (1) and @EPOCHS (no limit) may be absent.

    Raises ValueError where the text has another form, or a weight or a limit that is not positive.
    """
    match = _SOURCE.fullmatch(text)
    if match is None or not _NAME.fullmatch(match["name"]) or not match["spec"] or _SCHEME.match(text):
        raise ValueError(f"{field}={text!r} is not a source; write {_FORM}")
    name = match["name"]
    weight = _positive(match["weight"], 1.0, f"{field}: the weight of {name}")
    epochs = _positive(match["epochs"], None, f"{field}: the epochs of {name}")
    assert weight is not None
    return ParsedSource(name, weight, epochs, match["spec"])


def parse_change(text: str) -> ParsedChange:
    """The parts of STEP:NAME=WEIGHT,...; a weight of 0 stops a source. Raises ValueError for other forms."""
    where = f"data.source_changes={text!r}"
    step, colon, rest = text.partition(":")
    pairs = [pair.partition("=") for pair in rest.split(",")]
    if not colon or not step.strip().isdecimal() or not all(name and mark for name, mark, _ in pairs):
        raise ValueError(f"{where} is not a change of weights; write {_CHANGE_FORM}")
    weights: dict[str, float] = {}
    for name, _, value in pairs:
        weight = _number(value)
        if weight is None or not 0 <= weight < math.inf:
            raise ValueError(f"{where}: the weight of {name} is {value}; use a number of 0 or more")
        weights[name.strip()] = weight
    return ParsedChange(int(step), weights)


def _positive(text: str | None, absent: float | None, what: str) -> float | None:
    if text is None:
        return absent
    value = _number(text)
    if value is None or not 0 < value < math.inf:
        raise ValueError(f"{what} is {text}; use a number above 0")
    return value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def with_specs(sources: tuple[str, ...], change: Callable[[str], str]) -> tuple[str, ...]:
    """The sources with other specs, for example with absolute paths."""
    changed = []
    for source in sources:
        spec = parse_source(source).spec
        changed.append(source[: len(source) - len(spec)] + change(spec))
    return tuple(changed)


def check_sources(
    sources: Sequence[str], valid_sources: Sequence[str], changes: Sequence[str], temperature: float | None
) -> None:
    """Raises ValueError for sources, changes or a temperature that no mixture can have."""
    for field, value in (("valid_sources", valid_sources), ("source_changes", changes)):
        if value and not sources:
            raise ValueError(f"data.{field}={value!r} belongs to a mixture; name its data.sources as well")
    if temperature is not None and not temperature > 0:
        raise ValueError(f"data.mix_temperature={temperature} must be above 0; 1 mixes by size")
    if temperature is not None and not sources:
        raise ValueError(f"data.mix_temperature={temperature} belongs to a mixture; name its data.sources")
    names = [parse_source(source).name for source in sources]
    held_out = [parse_source(source, "data.valid_sources").name for source in valid_sources]
    every = names + held_out
    if twice := [name for name in every if every.count(name) > 1]:
        raise ValueError(f"two sources have the name {twice[0]}; give each a name of its own")
    last = 0
    for text in changes:
        change = parse_change(text)
        if unknown := [name for name in change.weights if name not in names]:
            raise ValueError(
                f"data.source_changes={text!r} weighs {unknown[0]}, which is not among data.sources; "
                f"{did_you_mean(unknown[0], names) or 'use one of ' + ', '.join(names)}"
            )
        if change.step <= last:
            raise ValueError(
                f"data.source_changes={text!r} comes at step {change.step}, not after {last}; give changes "
                "in order, each at a step of its own and none at step 0"
            )
        last = change.step
