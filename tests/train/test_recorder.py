"""Device metrics become rows one step late, with counters that survive a restart."""

import dataclasses

import jax.numpy as jnp
import pytest

from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train import recorder as recorder_module
from flaxmill.train.metrics.metrics_file import MetricsWriter, read_metrics
from flaxmill.train.metrics.progress import ProgressLine
from flaxmill.train.recorder import DivergenceError, Recorder


@pytest.fixture
def make_recorder(make_experiment, tmp_path):
    """A recorder for 10 steps, and how to read the rows that it wrote."""
    path = tmp_path / "metrics.jsonl"
    open_writers = []

    def make(metadata=None, max_predictions=None, **changes):
        experiment = make_experiment(steps=10, max_skipped_steps=3, **changes)
        model = dataclasses.replace(experiment.model, vocab_size=400, causal=True, head="lm")
        writer = MetricsWriter(path)
        open_writers.append(writer)
        line = ProgressLine(0, experiment.steps, quiet=True)
        experiment = dataclasses.replace(experiment, model=model)
        mesh = make_mesh(MeshConfig(data=1))
        return Recorder(experiment, mesh, writer, None, line, metadata or {}, max_predictions)

    yield make, lambda: list(read_metrics(path))
    for writer in open_writers:
        writer.__exit__()


def device_metrics(loss=1.5, num_tokens=7, skipped=False):
    return {
        "loss": jnp.float32(loss),
        "grad_norm": jnp.float32(0.1),
        "num_tokens": jnp.int32(num_tokens),
        "skipped": jnp.bool_(skipped),
    }


def test_a_step_is_written_when_the_next_is_recorded(make_recorder):
    make, rows = make_recorder
    recorder = make()
    recorder.record(0, device_metrics(), 0.0)
    assert rows() == []
    recorder.record(1, device_metrics(), 0.0)
    assert [row["step"] for row in rows()] == [0]
    recorder.flush()
    recorder.flush()
    assert [row["step"] for row in rows()] == [0, 1]


def test_a_row_holds_the_exact_metrics_and_the_cumulative_tokens(make_recorder):
    make, rows = make_recorder
    recorder = make()
    for step, num_tokens in enumerate([7, 5]):
        recorder.record(step, device_metrics(loss=0.1, num_tokens=num_tokens), 0.25)
    recorder.flush()
    first, second = rows()
    assert first["loss"] == float(jnp.float32(0.1))
    assert first["grad_norm"] == float(jnp.float32(0.1))
    assert (first["num_tokens"], second["num_tokens"]) == (7, 12)
    assert first["data_seconds"] == 0.25
    assert second["tokens_per_second"] == pytest.approx(5 / second["step_seconds"])
    assert "skipped" not in first


def test_only_every_nth_step_and_the_last_are_written_but_all_tokens_count(make_recorder):
    make, rows = make_recorder
    recorder = make(log_every=4)
    for step in range(10):
        recorder.record(step, device_metrics(), 0.0)
    recorder.flush()
    assert [(row["step"], row["num_tokens"]) for row in rows()] == [(0, 7), (4, 35), (8, 63), (9, 70)]


def test_counters_continue_from_a_checkpoint(make_recorder):
    make, rows = make_recorder
    first = make()
    first.record(0, device_metrics(), 0.0)
    first.record(1, device_metrics(skipped=True), 0.0)
    first.flush()
    second = make(first.metadata())
    second.record(2, device_metrics(skipped=True), 0.0)
    second.flush()
    counters = second.metadata()
    assert (counters["num_tokens"], counters["skipped_in_row"]) == (21, [[1, 1], [2, 2]])
    assert rows()[-1]["num_tokens"] == 21


def test_skipped_steps_in_a_row_stop_the_run_and_are_named(make_recorder):
    make, _ = make_recorder
    recorder = make()
    for step in (4, 5, 6):
        recorder.record(step, device_metrics(loss=float("nan"), skipped=True), 0.0)
    with pytest.raises(DivergenceError, match=r"3 steps in a row \(4, 5, 6\).*weights are those of step 4"):
        recorder.flush()


def test_a_finite_step_starts_the_count_anew(make_recorder):
    make, rows = make_recorder
    recorder = make()
    for step in range(8):
        recorder.record(step, device_metrics(skipped=step not in (2, 5)), 0.0)
    recorder.flush()
    assert len(rows()) == 8


def test_time_before_a_restart_of_the_clock_does_not_count(make_recorder, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(recorder_module.time, "perf_counter", lambda: now[0])
    make, rows = make_recorder
    recorder = make()
    now[0] = 50.0
    recorder.record_evaluation(1, None)
    now[0] = 52.0
    recorder.record(0, device_metrics(), 0.0)
    recorder.flush()
    assert rows()[0]["step_seconds"] == 2.0


def test_utilisation_is_written_where_the_peak_is_known(make_recorder, monkeypatch):
    monkeypatch.setattr(recorder_module, "peak_flops", lambda kinds: 1e9)
    make, rows = make_recorder
    recorder = make()
    recorder.record(0, device_metrics(), 0.0)
    recorder.flush()
    (row,) = rows()
    assert row["mfu"] > row["mfu_causal"] > 0


def test_utilisation_is_left_out_where_the_peak_is_unknown(make_recorder):
    make, rows = make_recorder
    recorder = make()
    recorder.record(0, device_metrics(), 0.0)
    recorder.flush()
    assert "mfu" not in rows()[0]
