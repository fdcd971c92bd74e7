"""Processes that are bound to cores, as mpirun and srun bind them: their copies of the weights stay equal."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from groups import Group
from launching import saved_arrays, write_experiment

from flaxmill.sharding.processes.processor import count_threads

pytestmark = pytest.mark.slow

STEPS = 6  # copies that are computed by different programs differ from the second on
TWO_CORES = pytest.mark.skipif(count_threads({}) < 2, reason="one core cannot be two")
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
INDEX = "import os, sys; index = int(sys.argv[sys.argv.index('--process-index') + 1])\n"

OTHER_KIND = """
import flaxmill.sharding.processes.processor as processor
processor.processor_kind = lambda: f"kind {index}"
"""

# The last bit of one array, in one process and at one step.
FLIP = """
import jax, numpy as np
import flaxmill.train.compilation.programs as programs
make_train_step = programs.make_train_step

def make_faulty_step(*arguments, **named):
    step = make_train_step(*arguments, **named)

    def faulty(state, batch, inputs):
        state, metrics = step(state, batch, inputs)
        if index == 1 and int(state.step) == 2:
            bias = state.params["final_norm"]["bias"]
            copies = [np.nextafter(shard.data, np.float32(9)) for shard in bias.addressable_shards]
            devices = [shard.device for shard in bias.addressable_shards]
            placed = [jax.device_put(*each) for each in zip(copies, devices)]
            state.params["final_norm"]["bias"] = jax.make_array_from_single_device_arrays(
                bias.shape, bias.sharding, placed
            )
        return state, metrics

    return faulty

programs.make_train_step = make_faulty_step
"""


def bind(*cores: Sequence[int]) -> str:
    """A program that binds each process to its cores."""
    return INDEX + f"os.sched_setaffinity(0, {[list(each) for each in cores]}[index])\n"


@pytest.fixture
def config(corpus: Path, tmp_path: Path) -> Path:
    return write_experiment(
        *(tmp_path / "job.py", "causal", corpus),
        data_axis=2,
        steps=STEPS,
        batch_size=8,
        eval_batches=1,
        checkpoint={"every": STEPS},
    )


def train(config: Path, name: str, before: str = "") -> str:
    """What a job of two processes says on stderr; its checkpoint must be what its digests say."""
    with Group(config, config.parent / name, 2, devices=1, before=before) as group:
        assert group.wait() == [0, 0], group.errors
    assert saved_arrays(group.run_dir, STEPS)
    return group.errors


@TWO_CORES
def test_a_job_on_one_core_each_takes_no_program_that_was_compiled_for_two(config: Path) -> None:
    train(config, "free")
    train(config, "bound", bind(CORES[:1], CORES[1:2]))


@TWO_CORES
def test_processes_on_unequal_machines_compute_alike_and_say_so(config: Path) -> None:
    said = train(config, "unequal", bind(CORES[:1], CORES[:2]) + OTHER_KIND)
    assert "process 1 has another kind of processor than process 0: if they round otherwise" in said
    assert "the processes of this job have 1 to 2 cores: on the CPU each computes with 1" in said


@TWO_CORES
def test_more_devices_than_the_fewest_cores_are_refused(config: Path) -> None:
    with Group(config, config.parent / "many", 2, before=bind(CORES[:1], CORES[:2])) as group:
        assert group.wait() == [2, 2], group.errors
    assert (
        "have 1 to 2 cores, and JAX_NUM_CPU_DEVICES makes some compute with more than 1; give" in group.errors
    )
    assert not group.run_dir.exists()


def test_copies_that_differ_in_one_bit_are_not_saved(config: Path) -> None:
    with Group(config, config.parent / "flipped", 2, devices=1, before=INDEX + FLIP) as group:
        assert group.wait() == [1, 1], group.errors
    assert not list(group.run_dir.glob("checkpoints/[0-9]*"))
    said = f"checkpoints/{STEPS} is not saved: "
    assert said in group.jobs[0].err
    (line,) = (line for line in group.jobs[1].err.splitlines() if line.startswith("flaxmill: error: "))
    assert said in line
    assert "arrays, such as params/final_norm/bias, are not as in process 0; give all processes one" in line
    assert "Traceback" not in group.errors
