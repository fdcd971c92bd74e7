"""After a spike of the loss a run goes back to its newest checkpoint, and past the batches that led there."""

from typing import Any

import jax.numpy as jnp
import pytest

from flaxmill.train import recorder, train
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig, Checkpoints
from flaxmill.train.failures import DivergenceError
from flaxmill.train.metrics.metrics_file import read_metrics
from flaxmill.train.recorder import LossSpike
from flaxmill.train.rollback import describe_rollback, roll_back
from flaxmill.train.run.restoring import Start
from flaxmill.train.spikes import SpikeConfig
from flaxmill.train.state import TrainState

ONCE = SpikeConfig(threshold=4.0, max_rollbacks=1)
EVERY_FOURTH = CheckpointConfig(every=4)


def restored(step: int, metadata: dict[str, Any]) -> Start:
    return Start(TrainState({}, (), jnp.int32(step), jnp.int32(0)), metadata, step)


def test_every_batch_from_the_checkpoint_to_the_spike_is_skipped():
    start, row = roll_back(LossSpike(57, 9.5), {}, restored(50, {"num_tokens": 5}))
    assert row == {
        "step": 50,
        "rollback_from": 57,
        "spike_loss": 9.5,
        "skipped_batches": [50, 57],
        "batch_offset": 8,
    }
    assert start.metadata == {"num_tokens": 5, "batch_offset": 8, "rollbacks": 1}
    assert describe_rollback(row) == (
        "step 57: the loss spiked to 9.5; back to step 50, skipping batches 50 to 57"
    )


def test_a_second_rollback_to_the_same_checkpoint_goes_past_both():
    """Step 50 read batch 58 the second time, and step 53 batch 61."""
    course = {"batch_offset": 8, "rollbacks": 1}
    start, row = roll_back(LossSpike(53, 9.5), course, restored(50, {}))
    assert row["skipped_batches"] == [58, 61]
    assert start.metadata["batch_offset"] == 62 - 50
    assert start.metadata["rollbacks"] == 2


@pytest.mark.slow
def test_too_many_rollbacks_end_the_run_name_the_step_and_keep_its_batch(spiking, tmp_path):
    with pytest.raises(DivergenceError, match=r"step 10, and spike.max_rollbacks=0 are used up.*bad_batches"):
        spiking(10, "never", spike=SpikeConfig(threshold=4.0, max_rollbacks=0))
    assert (tmp_path / "never" / "bad_batches" / "batch-10.npz").is_file()
    assert spiking(None, "never", spike=ONCE).step == 14  # a continued run may change max_rollbacks


@pytest.fixture
def spiking(make_experiment, monkeypatch, tmp_path):
    """Trains 14 steps with a checkpoint every 4; the loss at a given step spikes, once."""

    def run(
        at: int | None,
        name: str,
        spike: SpikeConfig = ONCE,
        checkpoint: CheckpointConfig = EVERY_FOURTH,
        **options: Any,
    ):
        left = [] if at is None else [at]

        class SpikeOnce:
            """In place of the detector, whose arithmetic test_spikes.py tests."""

            def __init__(self, config: SpikeConfig, losses: list[float]) -> None:
                self.losses = list(losses)

            def is_spike(self, loss: float) -> bool:
                if left and len(self.losses) == left[0]:
                    left.clear()
                    return True
                self.losses = [*self.losses, loss]
                return False

        monkeypatch.setattr(recorder, "SpikeDetector", SpikeOnce)
        experiment = make_experiment(
            steps=14,
            run_dir=str(tmp_path / name),
            log_digests=True,
            model={"num_layers": 1},
            checkpoint=checkpoint,
            spike=spike,
        )
        return train(experiment, **options)

    return run


def rows_of(result, kind="loss"):
    return [row for row in read_metrics(result.directory / "metrics.jsonl") if kind in row]


@pytest.mark.slow
def test_a_run_goes_back_skips_batches_and_says_so(spiking, capsys):
    straight = {row["step"]: row for row in rows_of(spiking(None, "straight"))}
    result = spiking(10, "spiking")
    rows = rows_of(result)
    assert [row["step"] for row in rows] == [*range(10), *range(8, 14)]
    (rollback,) = rows_of(result, "rollback_from")
    assert (rollback["step"], rollback["rollback_from"], rollback["skipped_batches"]) == (8, 10, [8, 10])
    digests = {step: row["batch_digest"] for step, row in straight.items()}
    for row in rows[10:-3]:  # step 8 reads batch 11, and so on
        assert row["batch_digest"] == digests[row["step"] + 3]
    assert "back to step 8, skipping batches 8 to 10" in capsys.readouterr().out
    assert [row["loss"] for row in rows[:10]] == [straight[step]["loss"] for step in range(10)]


@pytest.mark.slow
def test_a_run_stopped_after_a_rollback_continues_past_the_skipped_batches(spiking, stop_after):
    whole = rows_of(spiking(10, "whole"))
    stopped = spiking(10, "stopped", stop=stop_after(13))  # the 13th step made is step 9 after the rollback
    assert stopped.preempted
    continued = rows_of(spiking(None, "stopped"))
    assert [(row["step"], row["loss"], row["batch_digest"]) for row in continued] == [
        (row["step"], row["loss"], row["batch_digest"]) for row in whole
    ]


@pytest.mark.slow
def test_a_preemption_before_a_spike_changes_nothing_of_what_follows(spiking, stop_after):
    whole = rows_of(spiking(10, "whole"))
    assert spiking(None, "stopped", stop=stop_after(10)).preempted  # this saved step 10
    found = rows_of(spiking(10, "stopped"))
    assert [(row["step"], row["loss"]) for row in found] == [(row["step"], row["loss"]) for row in whole]


@pytest.mark.slow
def test_a_spike_before_the_first_checkpoint_starts_from_the_seed_again(spiking):
    result = spiking(2, "early")
    rows = rows_of(result)
    assert [row["step"] for row in rows] == [0, 1, *range(14)]
    (rollback,) = rows_of(result, "rollback_from")
    assert (rollback["step"], rollback["skipped_batches"]) == (0, [0, 2])


@pytest.mark.slow
def test_no_checkpoint_of_the_abandoned_course_is_left(spiking, monkeypatch):
    save = Checkpoints.save

    def save_and_wait(checkpoints: Checkpoints, *arguments: Any) -> None:
        save(checkpoints, *arguments)
        checkpoints.wait()

    monkeypatch.setattr(Checkpoints, "save", save_and_wait)
    config = CheckpointConfig(every=6, every_minutes=1e-6, keep_last=20)
    result = spiking(10, "clock", checkpoint=config)
    with Checkpoints(result.directory / "checkpoints", config, read_only=True) as checkpoints:
        offsets = {step: checkpoints.open(step).metadata["batch_offset"] for step in checkpoints.steps()}
    assert [step for step in offsets if step < 6]
    assert all((offset > 0) == (step > 6) for step, offset in offsets.items())
