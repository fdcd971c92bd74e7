"""When a run saves: by steps, and by the clock."""

import time

from flaxmill.train.checkpoint.config import CheckpointConfig

STEPS_OF_AGREEMENT = 2  # a request is read with the metrics of the step that carried it, one step late


class SaveSchedule:
    """Decides when to save: every `every` steps, and `every_minutes` after the last save began."""

    def __init__(self, config: CheckpointConfig, restored_step: int | None) -> None:
        self._config = config
        self.last_step = restored_step
        """The newest step that is in a checkpoint, or will be."""
        self._clock = time.monotonic()  # a change of the wall clock does not move it

    def is_overdue(self) -> bool:
        """Whether this process's clock asks for a save."""
        minutes = self._config.every_minutes
        return minutes is not None and time.monotonic() - self._clock >= 60 * minutes

    def is_due(self, done: int, asked: bool) -> bool:
        """Whether to save after `done` updates; `asked`: some process's clock asked for it."""
        # A clock's request from before the last save can still be on its way.
        stale = self.last_step is not None and done - self.last_step <= STEPS_OF_AGREEMENT
        return done % self._config.every == 0 or (asked and not stale)

    def saved(self, done: int) -> None:
        """Note that a save of this step has begun."""
        self.last_step = done
        self._clock = time.monotonic()
