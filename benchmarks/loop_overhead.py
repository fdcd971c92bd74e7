"""Measures what the training loop adds to the compiled step: reading, placing, logging, the progress line.

    python benchmarks/loop_overhead.py

Trains the same small GPT in turns with the real loop and with nothing but the compiled step on batches that
are already on the device. Prints the wall time per step of each (medians over repetitions), the median of
their ratios and the bar; the exit status is 1 if the bar is missed. Compilation, evaluation and saving are
left out. Run it on an idle machine: a step should take about 0.1 s.
"""

import contextlib
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import abstract_params
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.sharding.placement import place_rows
from flaxmill.train.caches import cache_directory
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig
from flaxmill.train.compilation.settings import set_up_compilation
from flaxmill.train.experiment import Experiment
from flaxmill.train.input_pipeline import make_batches
from flaxmill.train.loop import train
from flaxmill.train.optimizer.optimizers import make_optimizer
from flaxmill.train.resolution import resolve
from flaxmill.train.state import init_state
from flaxmill.train.step import make_train_step

BAR = 1.01
REPETITIONS = 7
WARM_STEPS, STEPS = 5, 30

EXPERIMENT = Experiment(
    name="loop_overhead",
    steps=1000,
    batch_size=8,
    log_every=1,
    model=ModelConfig(num_layers=3, embed_dim=128, num_heads=4, dropout=0.1, scan_layers=False),
    data=DataConfig(embedded="prose"),
    mesh=MeshConfig(data=1),
    checkpoint=CheckpointConfig(every=1000),
)


class StopWatch:
    """The loop asks it after every step: it notes the time, and ends the run when it has enough times."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @property
    def requested(self) -> bool:
        self.times.append(time.perf_counter())
        return len(self.times) > WARM_STEPS + STEPS

    def started(self) -> None:
        """The loop calls this after the first step, which is not timed."""

    def saved(self) -> None: ...

    def step_seconds(self) -> float:
        return (self.times[-1] - self.times[WARM_STEPS]) / STEPS


def time_loop() -> float:
    """Seconds a step of `train` in its steady state, with a live progress line as on a terminal."""
    watch = StopWatch()
    with (
        tempfile.TemporaryDirectory() as directory,
        Path(directory, "screen").open("w") as screen,
        contextlib.redirect_stdout(screen),
    ):
        train(dataclasses.replace(EXPERIMENT, run_dir=f"{directory}/run"), stop=watch)
    return watch.step_seconds()


class BareStep:
    """The compiled step alone, compiled once, on the batches that the loop sees."""

    def __init__(self) -> None:
        cache = cache_directory()
        set_up_compilation(cache)
        dataset = prepare(EXPERIMENT.data, EXPERIMENT.objective, cache=cache, log=print)
        experiment = resolve(EXPERIMENT, dataset.tokenizer)
        self._mesh = make_mesh(experiment.mesh)
        batches = make_batches(dataset, "train", experiment)
        optimizer = make_optimizer(experiment.optimizer, abstract_params(experiment.model))
        self._step = make_train_step(experiment, optimizer, self._mesh, batches.max_predictions)
        rows = [batches.batch(step) for step in range(WARM_STEPS + STEPS)]
        self._batches = [place_rows(self._mesh, row, experiment.batch_size) for row in rows]
        self._state = init_state(experiment.model, optimizer, self._mesh, experiment.seed)

    def time(self) -> float:
        """Seconds a step, from idle device to idle device."""
        with jax.set_mesh(self._mesh):
            for batch in self._batches[:WARM_STEPS]:
                self._state, _ = self._step(self._state, batch)
            jax.block_until_ready(self._state)
            started = time.perf_counter()
            for batch in self._batches[WARM_STEPS:]:
                self._state, _ = self._step(self._state, batch)
            jax.block_until_ready(self._state)
            return (time.perf_counter() - started) / STEPS


def main() -> int:
    """Prints both times and their ratio."""
    os.environ["FORCE_COLOR"] = "1"  # rich draws its live line into a file too
    bare = BareStep()
    pairs = []
    for repetition in range(REPETITIONS):
        pairs.append((time_loop(), bare.time()))
        print(
            f"{repetition + 1}: loop {pairs[-1][0]:.4f} s a step, bare step {pairs[-1][1]:.4f} s", flush=True
        )
    loop, alone = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(in_loop / by_itself for in_loop, by_itself in pairs)
    print(f"loop {loop:.4f} s a step, bare step {alone:.4f} s; median ratio {ratio:.3f}, bar {BAR}")
    return int(ratio > BAR)


if __name__ == "__main__":
    sys.exit(main())
