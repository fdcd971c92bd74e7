"""When a run saves, and which of its checkpoints it keeps."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every: int = 500
    """Steps between saves; the last step is saved too."""
    every_minutes: float | None = None
    """Also save when this many minutes have passed since the last save began; None: save by steps alone."""
    keep_last: int = 2
    """Newest checkpoints to keep."""
    keep_every: int | None = None
    """Also keep every checkpoint whose step is a multiple of this; None: keep no others."""
    fallback: bool = True
    """If the newest checkpoint is damaged, continue from the next older one; without this it is an error."""

    def __post_init__(self) -> None:
        for name in ("every", "keep_last", "keep_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"checkpoint.{name}={value} must be at least 1")
        if self.every_minutes is not None and not self.every_minutes > 0:
            raise ValueError(f"checkpoint.every_minutes={self.every_minutes} must be greater than 0, or None")


def choose_kept(config: CheckpointConfig, steps: Sequence[int], best: int | None = None) -> set[int]:
    """Which of the steps (ascending) to keep; the best evaluation's step always is."""
    kept = set(steps[-config.keep_last :])
    if config.keep_every is not None:
        kept |= {step for step in steps if step % config.keep_every == 0}
    # A rollback goes to the last save that was due by steps, whatever a preemption or the clock saved since.
    scheduled = [step for step in steps if step % config.every == 0]
    return kept | set(scheduled[-1:]) | {step for step in steps if step == best}
