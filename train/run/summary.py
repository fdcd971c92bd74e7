"""How far a run has come, told from its files: they may be another process's, or damaged."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from flaxmill.train.checkpoint.directory import find_steps
from flaxmill.train.metrics.metrics_file import MetricsRow, has_step, read_newest_metrics
from flaxmill.train.run.directory import CHECKPOINTS, CONFIG_FILE, METRICS_FILE, read_config
from flaxmill.train.run.lock import is_being_trained

State = Literal["running", "finished", "stopped", "damaged"]


class Summary(NamedTuple):
    """A run at a glance. What cannot be known is None."""

    directory: Path
    state: State
    problem: str | None = None
    """What is damaged."""
    objective: str | None = None
    step: int | None = None
    """Updates done, as far as they are logged or saved."""
    steps: int | None = None
    loss: float | None = None
    """Of the newest logged step."""
    evaluation: MetricsRow | None = None
    """The row of the newest evaluation."""
    tokens_per_second: float | None = None
    num_tokens: int | None = None
    """Real tokens trained on, until that step."""
    written_at: float | None = None
    """When the run last wrote a row or, before its first, its config, in seconds since 1970."""


def find_runs(root: Path) -> Iterator[Path]:
    """The directories of runs at `root` and below, by name; none lies within another."""
    if _is_run(root):
        yield root
        return
    try:
        below = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    except OSError:  # of another user, or just deleted
        return
    for path in below:
        if path.is_dir() and not path.is_symlink():
            yield from find_runs(path)


def summarize(directory: Path) -> Summary:
    """What the files of a run say, and whether they can be read; no checkpoint's arrays are."""
    written_at = _written_at(directory)
    try:
        experiment = read_config(directory)
        step_row, evaluation = _newest_rows(directory / METRICS_FILE)
    except ValueError as error:
        return Summary(directory, "damaged", str(error), written_at=written_at)
    saved = find_steps(directory / CHECKPOINTS)
    step = max(saved[-1] if saved else 0, step_row["step"] + 1 if step_row else 0)
    row = step_row or {}
    return Summary(
        directory,
        "running" if is_being_trained(directory) else "finished" if step >= experiment.steps else "stopped",
        None,
        experiment.objective,
        step,
        experiment.steps,
        _number(row.get("loss")),
        evaluation,
        _number(row.get("tokens_per_second")),
        _number(row.get("num_tokens")),
        written_at,
    )


def with_checkpoint_checked(summary: Summary) -> Summary:
    """The summary of a run that has a damaged newest checkpoint says so; JAX is loaded to look at it.

    A run that trains is left alone: it may just be replacing the checkpoint.
    """
    if summary.state in ("running", "damaged"):
        return summary
    from flaxmill.train.checkpoint.listing import BAD, check_newest

    newest = check_newest(summary.directory / CHECKPOINTS)
    if newest is None or newest.verdict not in BAD:
        return summary
    return summary._replace(
        state="damaged", problem=f"checkpoint {newest.name}: {'; '.join(newest.problems)}"
    )


def evaluation_loss(summary: Summary) -> float | None:
    """The held-out loss of the newest evaluation, if there was one."""
    return _number((summary.evaluation or {}).get("eval_loss"))


def _number(value: Any) -> Any:
    """The value, if it is a number: a row may have been changed by hand."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _is_run(directory: Path) -> bool:
    # Any of the three may be lost; a config alone may be somebody's model.
    found = [name for name in (CONFIG_FILE, METRICS_FILE, CHECKPOINTS) if os.path.lexists(directory / name)]
    return len(found) > 1 or found == [METRICS_FILE]


def _written_at(directory: Path) -> float | None:
    for name in (METRICS_FILE, CONFIG_FILE):
        try:
            return (directory / name).stat().st_mtime
        except OSError:
            continue
    return None


def _newest_rows(path: Path) -> tuple[MetricsRow | None, MetricsRow | None]:
    """The newest rows of a step and of an evaluation."""
    step_row = evaluation = None
    if not os.path.lexists(path):  # an import, or a run that has not made a step
        return None, None
    for row in filter(has_step, read_newest_metrics(path)):
        if any(name.startswith("eval_") for name in row):
            evaluation = evaluation or row
        else:
            step_row = step_row or row
        if step_row and evaluation:
            break
    return step_row, evaluation
