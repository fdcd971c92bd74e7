"""Tracks the best evaluation, keeps its checkpoint, and ends the run when nothing better comes."""

import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from flaxmill.train.metrics.metrics_file import has_step


@dataclass(frozen=True, kw_only=True)
class BestConfig:
    """Which evaluation is the best, and how long to wait for a better one."""

    metric: str | None = None
    """A value of the evaluations, such as eval_accuracy. The checkpoint with the best value is kept, and is
    the one that is used; the lowest loss is best, and the highest of any other value. None: the newest
    checkpoint is used."""
    patience: int | None = None
    """End the run after so many evaluations in a row without a better value; None: never."""

    def __post_init__(self) -> None:
        if self.metric is not None and not self.metric.startswith("eval_"):
            raise ValueError(
                f"best.metric={self.metric} is not a value of an evaluation; use eval_{self.metric}"
            )
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"best.patience={self.patience} must be at least 1, or None")
        if self.patience is not None and self.metric is None:
            raise ValueError(
                f"best.patience={self.patience} needs a value to watch; set best.metric, such as eval_loss"
            )


class Best:
    """Follows the evaluations of a run.

    A checkpoint keeps its `metadata`, so that a resumed run decides the same way.
    """

    def __init__(self, config: BestConfig, metadata: dict[str, Any]) -> None:
        self._config = config
        state = metadata.get("best")
        if not state or config.metric not in (state["metrics"] or {config.metric}):  # of another metric
            state = {"step": None, "metrics": {}, "waited": 0, "seen": None}
        self.step: int | None = state["step"]
        """The step of the best evaluation; None: there was none yet."""
        self.metrics: dict[str, float] = state["metrics"]
        self._waited: int = state["waited"]
        self._seen: int | None = state["seen"]

    @property
    def is_followed(self) -> bool:
        return self._config.metric is not None

    @property
    def is_waited_out(self) -> bool:
        """Whether the run must end."""
        return self._config.patience is not None and self._waited >= self._config.patience

    def metadata(self) -> dict[str, Any]:
        """The state that a checkpoint keeps."""
        state = {"step": self.step, "metrics": self.metrics, "waited": self._waited, "seen": self._seen}
        return {"best": state} if self.is_followed else {}

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Take an evaluation; if a resumed run repeats it, it counts once."""
        if self._config.metric is None or step == self._seen:
            return
        self._seen = step
        if self._is_better(metrics[self._config.metric]):
            self.step, self.metrics, self._waited = step, metrics, 0
        else:
            self._waited += 1

    def describe(self) -> str:
        """One line: which evaluation is the best."""
        metric = self._config.metric
        assert metric is not None
        if self.step is None:
            return f"{metric} was never a finite number"
        return f"best {metric} {self.metrics[metric]:.4f} at step {self.step}"

    def _is_better(self, value: float) -> bool:
        metric = self._config.metric
        assert metric is not None
        return is_better(metric, value, self.metrics.get(metric))


def is_better(metric: str, value: float | None, best: float | None) -> bool:
    """Whether a value beats the best so far (None: there is none); a value that is not finite never does."""
    # A row may have been changed by hand, and an integer of 400 digits does not fit a float.
    if not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return False
    if best is None:
        return True
    return value < best if metric.endswith("loss") else value > best


def find_best_step(config: BestConfig, rows: Iterable[dict[str, Any]], steps: Collection[int]) -> int | None:
    """The step, among those with a checkpoint, that has the best evaluation in the rows of metrics.jsonl.

    Returns None if no metric is followed, or none of these checkpoints was evaluated.
    """
    if config.metric is None:
        return None
    # After a rollback a step is evaluated twice; the checkpoint on disk belongs to the later value.
    values = {row["step"]: row[config.metric] for row in rows if has_step(row) and config.metric in row}
    found = None
    for step in sorted(values.keys() & set(steps)):
        if is_better(config.metric, values[step], None if found is None else values[found]):
            found = step
    return found


def check_best(config: BestConfig, names: Collection[str], eval_every: int | None) -> None:
    """Refuse a metric that could never be followed.

    Args:
      config: with a metric.
      names: the values that the run's evaluations give.

    Raises:
      ValueError: the metric is none of them, or no evaluation comes before the end.
    """
    if config.metric not in names:
        raise ValueError(
            f"best.metric={config.metric} is not what this run evaluates; "
            f"use one of {', '.join(sorted(names))}"
        )
    if eval_every is None:
        raise ValueError(f"best.metric={config.metric} needs evaluations on the way; set eval_every")
