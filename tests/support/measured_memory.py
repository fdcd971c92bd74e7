"""Prints the bytes that GPT-2's step is planned to take on eight simulated devices, and by how much a process
grows that runs it.

All devices share the process's memory, so that the plan is eight times what one takes.
"""

import threading
import time
from pathlib import Path

import numpy as np

from flaxmill.sharding.hardware.topologies import find_topology
from flaxmill.sharding.placement import place_rows
from flaxmill.train.named_configs import load_config
from flaxmill.train.overrides import override

FIELDS = (
    *("--batch-size", "8", "--data.sequence-length", "256", "--model.dtype", "float32"),
    *("--model.remat", "full", "--mesh.data", "1", "--mesh.fsdp", "8"),
)
PAGE = 4096


def resident() -> int:
    """Bytes of memory that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class Watch(threading.Thread):
    """Looks at the process's memory every two milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.ends = 0, False

    def run(self) -> None:
        while not self.ends:
            self.peak = max(self.peak, resident())
            time.sleep(0.002)


def main() -> None:
    experiment = override(load_config("gpt2_124m"), FIELDS, program="measured_memory")
    topology = find_topology("cpu:8")
    import jax

    from flaxmill.train.compilation.compiled_step import compile_step
    from flaxmill.train.optimizer.optimizers import make_optimizer
    from flaxmill.train.plan.memory import device_memory
    from flaxmill.train.state import init_state
    from flaxmill.train.step import make_train_step

    step = compile_step(experiment, topology)
    planned = device_memory(step, None).total * len(topology.devices)
    mesh, resolved = step.mesh, step.experiment
    optimizer = make_optimizer(resolved.optimizer, step.state.params)
    with jax.set_mesh(mesh):
        run = make_train_step(resolved, optimizer, mesh, step.batch.max_predictions)
        run.lower(step.state, step.batch.arrays, None).compile()
        rows = {name: np.ones(array.shape, array.dtype) for name, array in step.batch.arrays.items()}
        before = resident()
        watch = Watch()
        watch.start()
        state = init_state(resolved.model, optimizer, mesh, 0)
        batch = place_rows(mesh, rows, experiment.batch_size)
        for _ in range(2):
            state, _ = run(state, batch, None)  # compiled above
            jax.block_until_ready(state)
        watch.ends = True
        watch.join()
    print(planned, watch.peak - before)


if __name__ == "__main__":
    main()
