"""How parity's checks read: a table for people, one JSON object for programs."""

import json
import math
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from flaxmill.model.huggingface.directory import read_huggingface_config
from flaxmill.train.parity.comparison import ROUNDING, TOLERANCES, ParityCheck, Tolerance
from flaxmill.train.parity.torch_side import versions

WIDTH = 100  # where the output is not a terminal

INSIDE, ROUNDING_SHOWN, OUTSIDE = "inside", "inside (rounding)", "OUTSIDE"
COLORS = {INSIDE: "green", ROUNDING_SHOWN: "green", OUTSIDE: "bold red"}


def verdict(check: ParityCheck) -> str:
    """One of INSIDE, ROUNDING_SHOWN and OUTSIDE."""
    if not check.inside:
        return OUTSIDE
    return ROUNDING_SHOWN if check.beyond_float32 else INSIDE


def print_table(name: str, directory: Path, checks: Iterable[ParityCheck]) -> list[ParityCheck]:
    """Print the checks by quantity, each with its tolerance and the reason; returns those outside."""
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    done = list(checks)
    console.print(escape(_title(name, directory)), end="\n\n")
    console.print(f"{'':12}{'absolute':>10}{'relative':>10}{'tolerance':>14}")
    for quantity in dict.fromkeys(check.quantity for check in done):
        _print_quantity(console, [check for check in done if check.quantity == quantity])
    outside = [check for check in done if not check.inside]
    end = f"{len(outside)} of {len(done)} are {OUTSIDE}" if outside else f"all {len(done)} are {INSIDE}"
    console.print(f"\n[{COLORS[OUTSIDE if outside else INSIDE]}]{end}[/]")
    return outside


def print_json(name: str, directory: Path, checks: Iterable[ParityCheck]) -> list[ParityCheck]:
    """Print one JSON object; returns the checks that are outside."""
    done = list(checks)
    outside = [check for check in done if not check.inside]
    config = read_huggingface_config(directory)
    described = {
        "directory": name,
        "family": config.family,
        "head": config.head,
        "versions": versions(),
        "inside": not outside,
        "checks": [as_json(check) for check in done],
    }
    print(json.dumps(_finite(described)))
    return outside


def as_json(check: ParityCheck) -> dict[str, Any]:
    """A check as a JSON object; `tensors` has the judged difference of every gradient or parameter."""
    tolerance = TOLERANCES[check.kind]
    described = {
        "quantity": check.quantity,
        "batch": check.batch,
        "verdict": verdict(check).lower(),
        "inside": check.inside,
        "absolute": check.difference.absolute,
        "relative": check.difference.relative,
        "tolerance": tolerance.float32,
        "unit": _unit(tolerance),
        "reason": tolerance.reason,
        "tensors": check.difference.judged,
        "outside": check.outside,
    }
    if check.rounding is not None:
        described["float64"] = {
            "tolerance": tolerance.float64,
            "rounding_factor": ROUNDING,
            "tensors": check.rounding.judged,
            "torch_float32_to_float64": check.rounding.of_torch,
            "half_ulp_of_norm": check.rounding.least,
        }
    return described


def _title(name: str, directory: Path) -> str:
    config = read_huggingface_config(directory)
    described = ", ".join(f"{module} {version}" for module, version in versions().items())
    return f"{name}: {config.family}, head {config.head}\nfloat32 on random batches, against {described}"


def _print_quantity(console: Console, checks: list[ParityCheck]) -> None:
    tolerance = TOLERANCES[checks[0].kind]
    console.print(f"[bold]{escape(checks[0].quantity)}[/]")
    limit = f"{tolerance.float32:.0e} {_unit(tolerance)[:3]}."
    reason = _indented(f"{tolerance.float32:.0e} {_unit(tolerance)}: {tolerance.reason}")
    console.print(f"[dim]{escape(reason)}[/]")
    for check in checks:
        numbers = f"{check.difference.absolute:>10.1e}{check.difference.relative:>10.1e}"
        name = verdict(check)
        console.print(f"  {check.batch:10}{numbers}{limit:>14}  [{COLORS[name]}]{name}[/]")
        for note in _notes(check):
            console.print(escape(_indented(note)))


def _notes(check: ParityCheck) -> Iterator[str]:
    """Which tensors float32 could not judge, and what float64 says of the furthest."""
    beyond = check.beyond_float32
    if not beyond:
        return
    name = check.outside[0] if check.outside else beyond[0]
    tensors = check.difference.judged
    if len(tensors) > 1:
        rest = f"; the other {len(tensors) - len(beyond)}: {check.within_float32:.1e}"
        yield f"float64 judges {len(beyond)} of {len(tensors)} tensors{rest}; furthest: {name}"
    if check.rounding is not None:
        judged, of_torch = check.rounding.judged[name], check.rounding.of_torch[name]
        bound = f"{ROUNDING:.0f} x torch's own largest {of_torch:.1e}"
        if check.rounding.bound(name) > ROUNDING * of_torch:
            bound = f"{check.rounding.bound(name):.1e}, a rounding of the norm of all"
        yield (
            f"float64 {judged:.1e}, tolerance {TOLERANCES[check.kind].float64:.0e}; "
            f"float32 {tensors[name]:.1e}, at most {bound}"
        )


def _unit(tolerance: Tolerance) -> str:
    return "relative" if tolerance.relative else "absolute"


def _indented(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="    ")


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
