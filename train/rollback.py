"""When the loss spikes, goes back to the newest whole checkpoint due by steps, and skips the batches between.

Chowdhery et al. 2022 (PaLM), section 5.1: rewind, skip the batches around the spike, go on.
"""

from typing import Any

from flaxmill.train.recorder import LossSpike
from flaxmill.train.run.restoring import Start


def roll_back(spike: LossSpike, course: dict[str, Any], restored: Start) -> tuple[Start, dict[str, Any]]:
    """The state to continue from, and the row that records the rollback.

    Every batch from the checkpoint to the spike is skipped: from now on step s reads batch
    s + `batch_offset`. All of this is computed from the checkpoint, so a run killed right afterwards repeats
    it. The checkpoint is one saved on schedule by step, so a save forced by preemption cannot change the
    result.

    Args:
      course: metadata from which the run that met the spike had started.
      restored: the newest checkpoint that was due by steps, or the state that the run began with.
    """
    step, offset = int(restored.state.step), course.get("batch_offset", 0)
    new_offset = spike.step + offset + 1 - step
    row = {
        "step": step,
        "rollback_from": spike.step,
        "spike_loss": spike.loss,
        "skipped_batches": [step + offset, spike.step + offset],
        "batch_offset": new_offset,
    }
    metadata = restored.metadata | {"batch_offset": new_offset, "rollbacks": course.get("rollbacks", 0) + 1}
    return restored._replace(metadata=metadata), row


def describe_rollback(row: dict[str, Any]) -> str:
    """One line for a person."""
    first, last = row["skipped_batches"]
    return (
        f"step {row['rollback_from']}: the loss spiked to {row['spike_loss']:.4g}; "
        f"back to step {row['step']}, skipping batches {first} to {last}"
    )
