"""`flaxmill checkpoints`: lists a run's checkpoints, and reads them to see whether they are whole."""

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxmill.train.overrides import override, take_paths
from flaxmill.train.run.directory import CHECKPOINTS, CONFIG_FILE

if TYPE_CHECKING:
    from flaxmill.train.checkpoint.listing import Listed

DESCRIPTION = (
    "Lists the checkpoints of RUN, a run directory: step, size, whole or damaged, when saved and by which "
    "versions. Every array is read and compared with the digest that was stored with it. Exit code 1: one "
    "is damaged."
)
WIDTH = 100
SHOWN_VERSIONS = ("flaxmill", "jax", "orbax-checkpoint")
COLORS = {"whole": "green", "damaged": "bold red", "unreadable": "bold red"}
NOTES = {
    "set aside": "damaged, and passed over by the run; delete it when you no longer need it",
    "unfinished": "being written, or left by a crash: then the next start clears it",
    "discarded": "being deleted, or left by a crash: then the next start clears it",
}


@dataclass(frozen=True, kw_only=True)
class CheckpointsArguments:
    """What `flaxmill checkpoints` takes."""

    json: bool = False
    """Print one JSON object instead of a table."""
    quick: bool = False
    """Look at manifests and files alone; a byte that has changed within an array goes unseen."""


def run(arguments: list[str]) -> int:
    """List, check, print; 1 if a checkpoint is damaged."""
    program = "flaxmill checkpoints"
    (directory,), flags = take_paths(arguments, "RUN", program=program)
    parsed = override(CheckpointsArguments(), flags, program=program, usage="RUN", description=DESCRIPTION)
    if not (directory / CHECKPOINTS).is_dir() and not (directory / CONFIG_FILE).is_file():
        raise ValueError(f"{directory} is not a run directory; give one that `flaxmill train` made")
    import jax

    from flaxmill.train.checkpoint.listing import BAD, list_checkpoints

    jax.config.update("jax_platforms", "cpu")  # the accelerators may be in use by the run itself
    found = list_checkpoints(directory / CHECKPOINTS, quick=parsed.quick)
    listed = _print_json(found) if parsed.json else _print_table(found, directory)
    return int(any(one.verdict in BAD for one in listed))


def _print_json(found: "Iterator[Listed]") -> "list[Listed]":
    listed = list(found)
    print(json.dumps({"checkpoints": [_as_json(one) for one in listed]}))
    return listed


def _as_json(one: "Listed") -> dict[str, Any]:
    known = {
        name: one.metadata.get(name)
        for name in ("saved_at", "versions", "mesh", "num_processes", "num_tokens", "dataset", "tokenizer")
    }
    described = {"name": one.name, "step": one.step, "num_bytes": one.num_bytes, "verdict": one.verdict}
    return described | {"problems": one.problems} | known


def _print_table(found: "Iterator[Listed]", directory: Path) -> "list[Listed]":
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{'step':>14}{'size':>12}  {'verdict':12}{'saved at':28}by[/]")
    listed = []
    for one in found:
        listed.append(one)
        saved_at = one.metadata.get("saved_at", "unknown") if one.step is not None else ""
        versions = _versions(one.metadata) if one.step is not None else ""
        verdict = f"[{COLORS.get(one.verdict, 'yellow')}]{one.verdict:12}[/]"
        line = f"{escape(one.name):>14}{_size(one.num_bytes):>12}  {verdict}{saved_at:28}{escape(versions)}"
        console.print(line.rstrip())
        for note in [*one.problems, *([NOTES[one.verdict]] if one.verdict in NOTES else [])]:
            console.print(
                escape(textwrap.fill(note, WIDTH, initial_indent=" " * 16, subsequent_indent=" " * 16))
            )
    if not listed:
        console.print(f"{escape(str(directory))} holds no checkpoint yet")
    return listed


def _versions(metadata: dict[str, Any]) -> str:
    versions = metadata.get("versions", {})
    known = [f"{name.partition('-')[0]} {versions[name]}" for name in SHOWN_VERSIONS if name in versions]
    return ", ".join(known) or "unknown"


def _size(size: int) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= limit:
            return f"{size / limit:.1f} {unit}"
    return f"{size} B"
