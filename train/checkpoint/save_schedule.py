"""When a run saves: by steps, and by the clock."""

import time

from flaxmill.train.checkpoint.config import CheckpointConfig

STEPS_OF_AGREEMENT = 2  # a wish is read with the metrics of the step that carried it, one step late


class SaveSchedule:
    """Saves every `every` steps, and `every_minutes` after the save before has begun."""

    def __init__(self, config: CheckpointConfig, restored_step: int | None) -> None:
        self._config = config
        self.last_step = restored_step
        """The newest step that stands in a checkpoint, or will."""
        self._clock = time.monotonic()  # which no change of the wall clock moves

    def is_overdue(self) -> bool:
        """Whether this process's clock asks for a save."""
        minutes = self._config.every_minutes
        return minutes is not None and time.monotonic() - self._clock >= 60 * minutes

    def is_due(self, done: int, asked: bool) -> bool:
        """Whether to save after `done` updates; `asked`: some process's clock wanted it."""
        # What a clock wanted before the last save can still be on its way.
        stale = self.last_step is not None and done - self.last_step <= STEPS_OF_AGREEMENT
        return done % self._config.every == 0 or (asked and not stale)

    def saved(self, done: int) -> None:
        """A save of this step has begun."""
        self.last_step = done
        self._clock = time.monotonic()
