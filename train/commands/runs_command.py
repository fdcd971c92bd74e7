"""`flaxmill runs`: the runs of a directory at a glance."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxmill.data.files.local_paths import local_path
from flaxmill.train.metrics.progress import short_number
from flaxmill.train.overrides import override
from flaxmill.train.run.directory import RUNS
from flaxmill.train.run.summary import (
    Summary,
    evaluation_loss,
    find_runs,
    summarize,
    with_checkpoint_checked,
)

DESCRIPTION = (
    f"Lists the runs in DIR and below it, {RUNS} by default: objective, step, loss of the newest logged "
    "step, loss on held-out text, tokens a second, time since the last row, and whether the run is running, "
    "finished, stopped or damaged. A run is running where a process holds its lock, and damaged where its "
    "config, its metrics or its newest checkpoint cannot be read."
)
COLUMNS = ("run", "objective", "step", "loss", "held out", "tokens/s", "age")
NUM_WORDS = 2  # columns of words; those of numbers follow
COLORS = {"running": "green", "damaged": "bold red"}
UNKNOWN = "-"


@dataclass(frozen=True, kw_only=True)
class RunsArguments:
    """What `flaxmill runs` takes."""

    json: bool = False
    """Print one JSON object instead of a table."""


def run(arguments: list[str]) -> None:
    """Print a line for each run. Raises ValueError for a DIR that is not a directory."""
    has_path = bool(arguments) and not arguments[0].startswith("-")
    flags = arguments[1:] if has_path else arguments
    parsed = override(RunsArguments(), flags, program="flaxmill runs", usage="[DIR]", description=DESCRIPTION)
    root = local_path(arguments[0], "DIR") if has_path else RUNS
    if has_path and not root.is_dir():
        raise ValueError(f"{root} is not a directory; give one that holds runs of `flaxmill train`")
    summaries = [summarize(directory) for directory in find_runs(root)]
    if any(summary.step for summary in summaries):
        import jax

        jax.config.update("jax_platforms", "cpu")  # the accelerators may be in use by the runs themselves
        summaries = [with_checkpoint_checked(summary) for summary in summaries]
    if parsed.json:
        print(json.dumps({"runs": [_as_json(summary) for summary in summaries]}))
    else:
        _print_table(summaries, root)


def _as_json(summary: Summary) -> dict[str, Any]:
    return summary._asdict() | {"directory": str(summary.directory)}


def _print_table(summaries: list[Summary], root: Path) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    if not summaries:
        console.print(f"{escape(str(root))} holds no run yet; `flaxmill train` makes one in {RUNS}")
        return
    lines = [COLUMNS, *(_cells(summary, root) for summary in summaries)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [escape(_pad(line, widths)) for line in lines]
    console.print(f"[bold]{padded[0]}state[/]")
    for line, summary in zip(padded[1:], summaries, strict=True):
        color = COLORS.get(summary.state)
        console.print(f"{line}[{color}]{summary.state}[/]" if color else line + summary.state)
        if summary.problem:
            console.print(f"    {escape(summary.problem)}")


def _pad(line: tuple[str, ...], widths: list[int]) -> str:
    return "".join(
        f"{text:{'<' if number < NUM_WORDS else '>'}{width}}  "
        for number, (text, width) in enumerate(zip(line, widths, strict=True))
    )


def _cells(summary: Summary, root: Path) -> tuple[str, ...]:
    is_alone = summary.directory == root
    return (
        str(summary.directory if is_alone else summary.directory.relative_to(root)),
        summary.objective or UNKNOWN,
        UNKNOWN if summary.step is None else f"{summary.step:,}/{summary.steps:,}",
        _loss(summary.loss),
        _loss(evaluation_loss(summary)),
        UNKNOWN if summary.tokens_per_second is None else short_number(summary.tokens_per_second),
        UNKNOWN if summary.written_at is None else _age(time.time() - summary.written_at),
    )


def _loss(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"


def _age(seconds: float) -> str:
    """90000 -> 1d"""
    for limit, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= limit:
            return f"{seconds // limit:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
