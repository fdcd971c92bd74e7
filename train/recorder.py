"""Turns a step's device metrics into a row, one step late so that the device never waits for the host."""

import time
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
from jax.sharding import Mesh

from flaxmill.data.source import parse_source
from flaxmill.train.best import Best
from flaxmill.train.experiment import Experiment
from flaxmill.train.failures import DivergenceError
from flaxmill.train.metrics.flops import peak_flops, step_flops
from flaxmill.train.metrics.metrics_file import MetricsWriter
from flaxmill.train.metrics.progress import ProgressLine
from flaxmill.train.metrics.trackers import Trackers
from flaxmill.train.resolution import target_length
from flaxmill.train.spikes import SpikeDetector


@dataclass
class _Window:
    """The steps since the last row: their times are means, because a single step's time is mostly noise."""

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


class LossSpike(Exception):  # noqa: N818 (the run goes back, which is not an error)
    """The loss of a step stood out, as `experiment.spike` defines it; its row is not written."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"step {step} has loss {loss}")
        self.step, self.loss = step, loss


class Recorder:
    """Reads metrics of the previous step while the device works on this one; logs every n-th."""

    def __init__(
        self,
        experiment: Experiment,
        mesh: Mesh,
        writer: MetricsWriter | None,
        trackers: Trackers | None,
        progress: ProgressLine,
        metadata: dict[str, Any],
        max_predictions: int | None,
    ) -> None:
        """Continue the counters of a checkpoint's metadata; a process that writes nothing has no writer."""
        self._experiment, self._progress = experiment, progress
        self._writer, self._trackers = writer, trackers
        self._num_tokens: int = metadata.get("num_tokens", 0)
        self._sources = [parse_source(source).name for source in experiment.data.sources]
        self._source_tokens: list[int] = metadata.get("source_tokens", [0] * len(self._sources))
        self._skipped_in_row: list[list[int]] = metadata.get("skipped_in_row", [])  # [step, batch] each
        self.batch_offset: int = metadata.get("batch_offset", 0)
        """Batches that rollbacks have skipped: step s reads batch s + this."""
        self._rollbacks: int = metadata.get("rollbacks", 0)
        self._spikes = SpikeDetector(experiment.spike, metadata.get("losses", []))
        self.best = Best(experiment.best, metadata)
        self.signals: list[int] | None = None
        """The flags of all processes, from the newest step that was read."""
        lengths = experiment.data.sequence_length, max_predictions, target_length(experiment)
        self._flops = step_flops(experiment.model, experiment.batch_size, *lengths)
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
        values = {name: value.tolist() for name, value in jax.device_get(metrics).items()}
        num_tokens = values.pop("num_tokens")
        self._num_tokens += num_tokens
        self.signals = values.pop("signals", None)
        self._count_skipped(step, values.pop("skipped"))
        if self._spikes.is_spike(values["loss"]):
            self._raise_spike(step, values["loss"])
        now = time.perf_counter()
        self._window.add(now - self._clock, data_seconds, num_tokens)
        self._clock = now
        of_sources = self._take_sources(values)
        row = {"step": step, "loss": values.pop("loss"), **values, "num_tokens": self._num_tokens}
        row |= of_sources
        row |= self._window.rates() | self._utilisation(self._window.rates()["step_seconds"])
        due = step % self._experiment.log_every == 0 or step + 1 == self._experiment.steps
        if due:
            self._window = _Window()
            self.write(row)
        self._progress.update(step + 1, row, line=due)

    def metadata(self) -> dict[str, Any]:
        """The counters that a checkpoint keeps."""
        assert self._pending is None, "counters are whole only after a flush"
        counters = {"num_tokens": self._num_tokens, "skipped_in_row": self._skipped_in_row}
        counters |= {"batch_offset": self.batch_offset, "rollbacks": self._rollbacks}
        counters |= {"source_tokens": self._source_tokens} if self._sources else {}
        return counters | {"losses": self._spikes.losses} | self.best.metadata()

    def _take_sources(self, values: dict[str, Any]) -> dict[str, Any]:
        """What a row says of each source of a mixture: its loss in this step, and its tokens so far."""
        if not self._sources:
            return {}
        losses, tokens = values.pop("source_losses", []), values.pop("source_tokens")
        self._source_tokens = [sum(pair) for pair in zip(self._source_tokens, tokens, strict=True)]
        said = [(f"loss/{name}", loss) for name, loss in zip(self._sources, losses, strict=False)]
        said += [
            (f"num_tokens/{name}", n) for name, n in zip(self._sources, self._source_tokens, strict=True)
        ]
        return dict(said)

    def record_evaluation(self, step: int, metrics: dict[str, float] | None) -> None:
        """Write an evaluation (None: it was given up); its time does not count towards the next step."""
        if metrics is not None:
            self.best.update(step, metrics)
            self.write({"step": step, **metrics})
        self._clock = time.perf_counter()

    def write(self, row: dict[str, Any]) -> None:
        """Write a row, of a step or of an evaluation, wherever metrics go."""
        if self._writer is not None:
            self._writer.write(row)
        if self._trackers is not None:
            self._trackers.write(row)

    def sync(self) -> None:
        """Put all rows on the disk."""
        if self._writer is not None:
            self._writer.sync()

    def _count_skipped(self, step: int, skipped: bool) -> None:
        if not skipped:
            self._skipped_in_row = []
            return
        self._skipped_in_row = [*self._skipped_in_row, [step, step + self.batch_offset]]
        self._progress.say(f"step {step}: loss or gradient is not finite; its update is left out")
        limit = self._experiment.max_skipped_steps
        if len(self._skipped_in_row) >= limit:
            steps = ", ".join(str(step) for step, _ in self._skipped_in_row)
            raise DivergenceError(
                f"loss or gradient was not finite in {limit} steps in a row ({steps}); the weights are those "
                f"of step {self._skipped_in_row[0][0]}: look at the batches, then continue with a higher "
                "max_skipped_steps, or start again from step 0 with a lower optimizer.learning_rate",
                [batch for _, batch in self._skipped_in_row],
            )

    def _raise_spike(self, step: int, loss: float) -> NoReturn:
        limit = self._experiment.spike.max_rollbacks
        if self._rollbacks < limit:
            raise LossSpike(step, loss)
        raise DivergenceError(
            f"the loss spiked to {loss:.4g} at step {step}, and spike.max_rollbacks={limit} are used up; "
            "raise it to continue, or start again from step 0 with a lower optimizer.learning_rate",
            [step + self.batch_offset],
        )

    def _utilisation(self, seconds: float) -> dict[str, float]:
        """MFU by both counts of causal attention, where the peak is known."""
        if self._peak is None:
            return {}
        full, causal = (flops / seconds / self._peak for flops in self._flops)
        return {"mfu": full, "mfu_causal": causal}
