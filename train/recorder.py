"""Turns a step's device metrics into a row, one step late so that the device never waits for the host."""

import time
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from flaxmill.train.experiment import Experiment
from flaxmill.train.failures import DivergenceError
from flaxmill.train.flops import peak_flops, step_flops
from flaxmill.train.metrics import MetricsWriter
from flaxmill.train.progress import ProgressLine
from flaxmill.train.trackers import TensorBoard


@dataclass
class _Window:
    """The steps since the last row: their times are means, since a single step's is mostly noise."""

    num_steps: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0

    def add(self, seconds: float, data_seconds: float, num_tokens: int) -> None:
        self.num_steps += 1
        self.num_tokens += num_tokens
        self.seconds += seconds
        self.data_seconds += data_seconds

    def rates(self) -> dict[str, float]:
        return {
            "step_seconds": self.seconds / self.num_steps,
            "data_seconds": self.data_seconds / self.num_steps,
            "tokens_per_second": self.num_tokens / self.seconds,
        }


class Recorder:
    """Reads metrics of the previous step while the device works on this one; logs every n-th."""

    def __init__(
        self,
        experiment: Experiment,
        mesh: Mesh,
        writer: MetricsWriter,
        tensorboard: TensorBoard | None,
        progress: ProgressLine,
        metadata: dict[str, Any],
        max_predictions: int | None,
    ) -> None:
        self._experiment, self._progress = experiment, progress
        self._writer, self._tensorboard = writer, tensorboard
        self._num_tokens: int = metadata.get("num_tokens", 0)
        self._skipped_in_row: list[int] = metadata.get("skipped_in_row", [])
        self._flops = step_flops(
            experiment.model, experiment.batch_size, experiment.data.sequence_length, max_predictions
        )
        self._peak = peak_flops([device.device_kind for device in mesh.devices.flat])
        self._pending: tuple[int, dict[str, jax.Array], float] | None = None
        self._window = _Window()
        self._clock = time.perf_counter()

    def record(self, step: int, metrics: dict[str, jax.Array], data_seconds: float) -> None:
        """Keep this step's metrics and write those of the step before."""
        self.flush()
        self._pending = (step, metrics, data_seconds)

    def flush(self) -> None:
        """Wait for the step that is pending, if any, and write its row where it is due."""
        if self._pending is None:
            return
        (step, metrics, data_seconds), self._pending = self._pending, None
        values = {name: value.item() for name, value in jax.device_get(metrics).items()}
        num_tokens = values.pop("num_tokens")
        self._num_tokens += num_tokens
        self._count_skipped(step, values.pop("skipped"))
        now = time.perf_counter()
        self._window.add(now - self._clock, data_seconds, num_tokens)
        self._clock = now
        row = {"step": step, "loss": values.pop("loss"), **values, "num_tokens": self._num_tokens}
        row |= self._window.rates() | self._utilisation(self._window.rates()["step_seconds"])
        due = step % self._experiment.log_every == 0 or step + 1 == self._experiment.steps
        if due:
            self._window = _Window()
            self.write(row)
        self._progress.update(step + 1, row, line=due)

    def metadata(self) -> dict[str, Any]:
        """The counters that a checkpoint keeps."""
        assert self._pending is None, "counters are whole only after a flush"
        return {"num_tokens": self._num_tokens, "skipped_in_row": self._skipped_in_row}

    def restart_clock(self) -> None:
        """Do not count the time since the last step, such as an evaluation's, to the next."""
        self._clock = time.perf_counter()

    def write(self, row: dict[str, Any]) -> None:
        """Write a row, of a step or of an evaluation, wherever metrics go."""
        self._writer.write(row)
        if self._tensorboard is not None:
            self._tensorboard.write(row)

    def _count_skipped(self, step: int, skipped: bool) -> None:
        self._skipped_in_row = [*self._skipped_in_row, step] if skipped else []
        limit = self._experiment.max_skipped_steps
        if len(self._skipped_in_row) >= limit:
            steps = ", ".join(map(str, self._skipped_in_row))
            raise DivergenceError(
                f"loss or gradient was not finite in {limit} steps in a row ({steps}); the weights are those "
                f"of step {self._skipped_in_row[0]}: look at their batches (`flaxmill data show --step`), or "
                "start anew with a lower optimizer.learning_rate"
            )

    def _utilisation(self, seconds: float) -> dict[str, float]:
        """MFU by both counts of causal attention, where the peak is known."""
        if self._peak is None:
            return {}
        full, causal = (flops / seconds / self._peak for flops in self._flops)
        return {"mfu": full, "mfu_causal": causal}
