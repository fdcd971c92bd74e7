"""Batches come ahead of the loop in order, whole, and with the error of their own step; a run reads with the
tokenizer it kept when the file that it came from is gone."""

import dataclasses
import threading
import time
from typing import Any

import jax
import numpy as np
import pytest
from small_tokenizers import directory_of
from task_files import write_task

from flaxmill.data.config import DataConfig
from flaxmill.data.mixture.mixed_batches import MixedBatches
from flaxmill.data.mixture.preparation import prepare_mixture
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train import input_pipeline
from flaxmill.train.experiment import Experiment
from flaxmill.train.input_pipeline import prepare_data

SECONDS = 20  # a test that hangs ends


class Numbered:
    """Batches that hold their own number, and note the thread that makes each."""

    batch_size = 8

    def __init__(self, num_tokens=4):
        self.num_tokens = num_tokens
        self.asked: list[int] = []

    def parts(self, step, start, stop, tokens):
        self.asked.append(step)
        return [{"tokens": np.full((stop - start, len(part)), step, np.int32)} for part in tokens]


def ahead_of(batches: Any, mesh, first, last, batch_offset=0):
    """`read_ahead`, of anything that gives rows."""
    return input_pipeline.read_ahead(batches, mesh, first, last, zigzag=False, batch_offset=batch_offset)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=None))


def readers():
    """The threads that read batches."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("batch")]


def wait_for_no_reader():
    until = time.monotonic() + SECONDS
    while readers():
        assert time.monotonic() < until, "a thread is left"
        time.sleep(0.01)


def test_batches_come_in_order_whatever_the_order_in_which_they_are_made(mesh):
    class Reversed(Numbered):
        """The second of two neighbours is made before the first."""

        def __init__(self):
            super().__init__()
            self.made = {step: threading.Event() for step in range(40)}

        def parts(self, step, start, stop, tokens):
            if step % 2 == 0 and step:
                assert self.made[step + 1].wait(SECONDS)
            batch = super().parts(step, start, stop, tokens)
            self.made[step].set()
            return batch

    batches = Reversed()
    batches.made[1].set()  # the first two are read before it is known how many fit
    found = [(step, batch["tokens"][0, 0].item()) for step, batch, _ in ahead_of(batches, mesh, 0, 40)]
    assert found == [(step, step) for step in range(40)]


def test_several_batches_are_read_at_the_same_time(mesh):
    together = threading.Barrier(4, timeout=SECONDS)

    class Meeting(Numbered):
        def parts(self, step, start, stop, tokens):
            if step >= 4:
                together.wait()  # broken, and an error, unless four are here at once
            return super().parts(step, start, stop, tokens)

    assert len(list(ahead_of(Meeting(), mesh, 0, 12))) == 12


def test_step_s_reads_the_batch_beyond_those_that_were_skipped(mesh):
    steps = list(ahead_of(Numbered(), mesh, 3, 9, batch_offset=5))
    assert [step for step, _, _ in steps] == list(range(3, 9))
    assert [batch["tokens"][0, 0].item() for _, batch, _ in steps] == list(range(8, 14))
    assert list(ahead_of(Numbered(), mesh, 9, 9)) == []


def test_an_error_is_raised_at_the_step_whose_batch_failed_and_ends_the_reading(mesh):
    class Failing(Numbered):
        def parts(self, step, start, stop, tokens):
            if step == 7:
                raise OSError("shard 3 is damaged")
            return super().parts(step, start, stop, tokens)

    batches = Failing()
    ahead = ahead_of(batches, mesh, 0, 1000)
    assert [next(ahead)[0] for _ in range(7)] == list(range(7))
    with pytest.raises(OSError, match="shard 3 is damaged"):
        next(ahead)
    wait_for_no_reader()
    assert max(batches.asked) < 7 + 2 * input_pipeline._MOST_AHEAD


def test_a_run_that_ends_early_leaves_no_thread(mesh):
    batches = Numbered()
    ahead = ahead_of(batches, mesh, 0, 1000)
    for step, _, _ in ahead:
        if step == 5:
            break
    assert readers()
    ahead.close()
    wait_for_no_reader()
    assert max(batches.asked) < 5 + 2 * input_pipeline._MOST_AHEAD


def test_closing_does_not_wait_for_a_read_that_does_not_end(mesh):
    stuck, entered = threading.Event(), threading.Event()

    class Stuck(Numbered):
        def parts(self, step, start, stop, tokens):
            if step == 2:
                entered.set()
                assert stuck.wait(SECONDS)
            return super().parts(step, start, stop, tokens)

    ahead = ahead_of(Stuck(), mesh, 0, 1000)
    assert [next(ahead)[0] for _ in range(2)] == [0, 1]
    assert entered.wait(SECONDS)
    ahead.close()
    assert readers()
    stuck.set()
    wait_for_no_reader()


@pytest.mark.parametrize(("num_bytes", "most"), [(1, 16), (8 * 2**20, 8), (2**30, 2)])
def test_large_batches_are_read_ahead_up_to_a_bound_of_memory(mesh, monkeypatch, num_bytes, most):
    batches = Numbered(num_tokens=1)
    a_batch = 8 * 4  # bytes, in the place of num_bytes
    monkeypatch.setattr(input_pipeline, "_BYTES_AHEAD", input_pipeline._BYTES_AHEAD * a_batch // num_bytes)
    found = []
    for step, _, _ in ahead_of(batches, mesh, 0, 1000):
        until = time.monotonic() + 0.5
        while max(batches.asked) - step < most and time.monotonic() < until:
            time.sleep(0.001)
        found.append(max(batches.asked) - step)
        if step == 4:
            break
    assert max(found) == most


@pytest.mark.parametrize("num_threads_ahead", [1, 16])
def test_a_mixture_read_ahead_is_the_mixture_read_in_order(mesh, tmp_path, monkeypatch, num_threads_ahead):
    for name, word in (("a", "abc "), ("b", "123 ")):
        (tmp_path / name).write_text("\n\n".join(word * (20 + number % 7) for number in range(300)))
    config = DataConfig(
        sources=(f"a=3:{tmp_path}/a", f"b=1:{tmp_path}/b"), tokenizer="bytes", sequence_length=32
    )
    dataset = prepare_mixture(config, "mlm", cache=tmp_path, log=lambda line: None)

    def make():
        return MixedBatches(dataset, config=config, objective="mlm", batch_size=8, seed=0)

    monkeypatch.setattr(input_pipeline, "_MOST_AHEAD", num_threads_ahead)
    monkeypatch.setattr(input_pipeline, "_LEAST_AHEAD", num_threads_ahead)
    alone = make()
    for step, batch, _ in ahead_of(make(), mesh, 5, 70):
        expected = alone.batch(step)
        assert batch.keys() == expected.keys()
        for name, values in jax.device_get(batch).items():
            np.testing.assert_array_equal(values, expected[name])


def test_a_tokenizer_whose_file_is_gone_is_the_run_s_own_copy(tmp_path):
    def prepare(run: str | None):
        experiment = Experiment(objective="classification", data=config, run_dir=run)
        return prepare_data(experiment, tmp_path / "cache", lambda line: None)

    source = tmp_path / "tokenizer.json"
    source.write_text((directory_of("bert") / "tokenizer.json").read_text())
    config = dataclasses.replace(write_task(tmp_path, "classification"), tokenizer=str(source))
    run = tmp_path / "run"
    run.mkdir()
    dataset = prepare(str(run))
    dataset.tokenizer.save(run / "tokenizer.json")
    source.unlink()
    assert prepare(str(run)).fingerprint == dataset.fingerprint
    for without in (None, str(tmp_path / "other")):
        with pytest.raises(ValueError, match=r"tokenizer.json' is not a file; use bpe"):
            prepare(without)
