"""Finds losses that stand out from those before them (PaLM, Chowdhery et al. 2022, section 5.1).

PaLM's remedy is to go back to a checkpoint and to skip the batches that came before the spike.
"""

import math
from dataclasses import dataclass

# Relative to the mean: the losses of a model that has converged may all be the same, and then the noise of a
# sum taken in another order must not be a spike.
_STD_FLOOR = 1e-3
MAX_WINDOW = 1000  # its losses are summed at each step and kept in every checkpoint


@dataclass(frozen=True, kw_only=True)
class SpikeConfig:
    """When a loss is a spike, and how often to go back; a value that no run could use is a ValueError."""

    threshold: float | None = None
    """A loss this many standard deviations above the mean of the last losses is a spike; None: no loss is."""
    window: int = 100
    """How many of the last losses to compare with."""
    max_rollbacks: int = 3
    """How often a run may go back; at the next spike it stops."""

    def __post_init__(self) -> None:
        threshold = self.threshold
        if threshold is not None and not (threshold > 0 and math.isfinite(threshold)):
            raise ValueError(
                f"spike.threshold={threshold} must be above 0; use 5 or more, or None to not watch"
            )
        if not 2 <= self.window <= MAX_WINDOW:
            raise ValueError(f"spike.window={self.window} must be in [2, {MAX_WINDOW}]; 100 is usual")
        if self.max_rollbacks < 0:
            raise ValueError(
                f"spike.max_rollbacks={self.max_rollbacks} must be 0 or more; 0 stops at a spike"
            )


class SpikeDetector:
    """Compares each loss with the last ones.

    Plain arithmetic on exact floats: a run restarted with the `losses` of a checkpoint decides the same way.

    Args:
      losses: the losses of the window, the oldest first.
    """

    def __init__(self, config: SpikeConfig, losses: list[float]) -> None:
        self._config = config
        self._losses = list(losses)[-config.window :]

    @property
    def losses(self) -> list[float]:
        """The losses of the window, the oldest first, as they were given."""
        return list(self._losses)

    def is_spike(self, loss: float) -> bool:
        """Whether a loss exceeds mean + threshold * std; if it does not, it joins the history.

        A loss that is not finite does neither: its step was skipped, which is counted elsewhere.
        """
        threshold = self._config.threshold
        if threshold is None or not math.isfinite(loss):
            return False
        # A handful of losses, falling steeply as first ones do, say little about the next.
        if 2 * len(self._losses) >= self._config.window:
            mean, std = _mean_and_std(self._losses)
            if loss > mean + threshold * max(std, _STD_FLOOR * abs(mean)):
                return True
        self._losses = [*self._losses, loss][-self._config.window :]
        return False


def _mean_and_std(values: list[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
