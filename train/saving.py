"""What a save of a run writes, and in which order; and the last save, as the run is left."""

from flaxmill.train.checkpoint.save_schedule import SaveSchedule
from flaxmill.train.job import Job
from flaxmill.train.metrics.progress import ProgressLine
from flaxmill.train.recorder import Recorder
from flaxmill.train.run.provenance import provenance
from flaxmill.train.state import TrainState


class Saver:
    """Saves one run: rows first, then the state, with the counters and the provenance in its metadata."""

    def __init__(
        self, job: Job, recorder: Recorder, progress: ProgressLine, restored_step: int | None
    ) -> None:
        self._job, self._recorder, self._progress = job, recorder, progress
        self._schedule = SaveSchedule(job.experiment.checkpoint, restored_step)

    def is_overdue(self) -> bool:
        """Whether this process's clock asks for a save, and none is being written."""
        return self._schedule.is_overdue() and not self._job.checkpoints.saving

    def is_due(self, step: int, asked: bool) -> bool:
        """Whether to save after so many updates; `asked`: the clock of some process asked for it."""
        return self._schedule.is_due(step, asked)

    def save(self, step: int, state: TrainState) -> None:
        """Start to save the state after so many updates."""
        job, recorder = self._job, self._recorder
        recorder.flush()
        recorder.sync()  # every row below a checkpoint's step is on disk before it commits
        job.peers.at(step, "saving")
        job.checkpoints.best_step = recorder.best.step
        metadata = recorder.metadata() | provenance(job.experiment, job.dataset, job.mesh)
        job.ahead.wait_for("digests")
        job.checkpoints.save(step, state, metadata)
        self._schedule.saved(step)

    def wait(self) -> None:
        """Return when what was saved last is in a checkpoint."""
        self._job.checkpoints.wait()
        if self._job.stop is not None:
            self._job.stop.saved()

    def leave(self, step: int, state: TrainState) -> None:
        """Save the state of a run that was asked to stop, unless that is done, and wait for it."""
        if self._schedule.last_step != step:
            self.save(step, state)
        self.wait()
        self._progress.say(
            f"stopped after step {step}; the same command continues from {self._job.directory}"
        )
