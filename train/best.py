"""The evaluation that was best so far: whose checkpoint stays, and when no better one is waited for."""

import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from flaxmill.train.metrics.metrics_file import has_step


@dataclass(frozen=True, kw_only=True)
class BestConfig:
    """Which evaluation is the best, and how long to wait for a better one."""

    metric: str | None = None
    """A value of the evaluations, as eval_accuracy, whose best checkpoint stays and is what is used of the
    run; of losses the lowest is best, of others the highest. None: the newest checkpoint is used."""
    patience: int | None = None
    """End the run after so many evaluations in a row without a better value; None: never."""

    def __post_init__(self) -> None:
        if self.metric is not None and not self.metric.startswith("eval_"):
            raise ValueError(
                f"best.metric={self.metric} is no value of an evaluation; use eval_{self.metric}"
            )
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"best.patience={self.patience} must be at least 1, or None")
        if self.patience is not None and self.metric is None:
            raise ValueError(
                f"best.patience={self.patience} needs a value to watch; set best.metric, as eval_loss"
            )


class Best:
    """Follows the evaluations of a run; its `metadata` in a checkpoint makes a resumed run decide alike."""

    def __init__(self, config: BestConfig, metadata: dict[str, Any]) -> None:
        self._config = config
        state = metadata.get("best") or {"step": None, "metrics": {}, "waited": 0, "seen": None}
        self.step: int | None = state["step"]
        """The best evaluation's; None: there was none yet."""
        self.metrics: dict[str, float] = state["metrics"]
        self._waited: int = state["waited"]
        self._seen: int | None = state["seen"]

    @property
    def is_followed(self) -> bool:
        return self._config.metric is not None

    @property
    def is_waited_out(self) -> bool:
        """Whether the run shall end."""
        return self._config.patience is not None and self._waited >= self._config.patience

    def metadata(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        state = {"step": self.step, "metrics": self.metrics, "waited": self._waited, "seen": self._seen}
        return {"best": state} if self.is_followed else {}

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Take an evaluation; one that a resumed run makes again counts once."""
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
    """Whether a value beats the best so far, None: there is none; what is not finite never does."""
    # What stands in a row may have been changed by hand; a whole number of 400 digits is no float.
    if not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return False
    if best is None:
        return True
    return value < best if metric.endswith("loss") else value > best


def find_best_step(config: BestConfig, rows: Iterable[dict[str, Any]], steps: Collection[int]) -> int | None:
    """Of these steps, which have checkpoints, that of the best evaluation in the rows of metrics.jsonl.

    None: no metric is followed, or no checkpoint of these was evaluated.
    """
    if config.metric is None:
        return None
    # Of a step that was evaluated again, after a rollback, the last value is that of its checkpoint.
    values = {row["step"]: row[config.metric] for row in rows if has_step(row) and config.metric in row}
    found = None
    for step in sorted(values.keys() & set(steps)):
        if is_better(config.metric, values[step], None if found is None else values[found]):
            found = step
    return found


def check_best(config: BestConfig, names: Collection[str], eval_every: int | None) -> None:
    """Refuse what could never be followed.

    Args:
      config: with a metric.
      names: what the run's evaluations give.

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
