"""Measures what checkpoints cost: the stall by a save, the digest, and a restore compared with the disk.

    python benchmarks/checkpoint.py [DIRECTORY]

Saves a state of 500 MB (parameters and two moments of AdamW) below DIRECTORY (default: the system's temporary
directory) and restores it. The stall is the time that `save` takes without its digest: the rest is written
while training goes on. Files are dropped from the page cache before each restore and before each plain read
of the same files; both take turns. Prints medians; the exit status is 1 if a bar is missed. It needs Linux.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxmill.train.checkpoint import checkpoints as checkpoint
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig, Checkpoints
from flaxmill.train.checkpoint.digest import compute_digests
from flaxmill.train.checkpoint.manifest import join, named_leaves
from flaxmill.train.checkpoint.store import load_leaves

STALL_BAR_SECONDS, DIGEST_BAR, RESTORE_BAR = 0.1, 1e9, 0.5
SAVES, REPETITIONS = 10, 5
NUM_LAYERS, EMBED_DIM, VOCAB_SIZE = 8, 640, 4096
READ_BYTES = 1 << 24


def main() -> int:
    state = make_state()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    print(
        f"{size / 1e6:.0f} MB in {len(jax.tree.leaves(state))} arrays, load average {os.getloadavg()[0]:.1f}"
    )
    root = sys.argv[1] if sys.argv[1:] else None
    with (
        tempfile.TemporaryDirectory(dir=root) as directory,
        Checkpoints(Path(directory), CheckpointConfig(keep_last=1)) as checkpoints,
    ):
        missed = [report_saves(checkpoints, state), report_digest(state, size)]
        missed.append(report_restores(checkpoints, state, size))
    return int(any(missed))


def make_state() -> dict[str, Any]:
    """A GPT's parameters, stacked by layer, and AdamW's two moments of them."""
    layers, dim = NUM_LAYERS, EMBED_DIM
    shapes = {
        "embed": {"tokens": (VOCAB_SIZE, dim)},
        "layers": {
            **{name: {"kernel": (layers, dim, 8, dim // 8)} for name in ("query", "key", "value")},
            "out": {"kernel": (layers, 8, dim // 8, dim)},
            "up": {"kernel": (layers, dim, 4 * dim), "bias": (layers, 4 * dim)},
            "down": {"kernel": (layers, 4 * dim, dim), "bias": (layers, dim)},
        },
    }
    rng = np.random.default_rng(0)
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731

    def draw() -> Any:
        make = lambda shape: jax.device_put(rng.standard_normal(shape, np.float32))  # noqa: E731
        return jax.tree.map(make, shapes, is_leaf=is_shape)

    return {"params": draw(), "optimizer": {"mu": draw(), "nu": draw()}}


def report_saves(checkpoints: Checkpoints, state: Any) -> bool:
    """Print what a save costs; returns whether the stall is too long."""
    digests, stalls, commits = [], [], []
    make_manifest = checkpoint.make_manifest

    def timed(*arguments: Any) -> Any:
        seconds, manifest = measured(lambda: make_manifest(*arguments))
        digests.append(seconds)
        return manifest

    checkpoint.make_manifest = timed
    for step in range(1, SAVES + 2):
        seconds, _ = measured(lambda step=step: checkpoints.save(step, state, {}))
        stalls.append(seconds - digests[-1])
        commits.append(seconds + measured(checkpoints.wait)[0])
    checkpoint.make_manifest = make_manifest
    # The first save compiles, and imports Orbax.
    stall, digest, commit = (statistics.median(times[1:]) for times in (stalls, digests, commits))
    print(f"stall by a save: {1e3 * stall:.0f} ms apart from the digest (bar {1e3 * STALL_BAR_SECONDS:.0f}),")
    print(f"  {1e3 * digest:.0f} ms for the digest; committed after {commit:.2f} s; medians of {SAVES}")
    return stall > STALL_BAR_SECONDS


def report_digest(state: Any, size: int) -> bool:
    """Print the speed of the digest; returns whether it is too slow."""
    leaves = {join(path): leaf for path, leaf in named_leaves(state).items()}
    times = [measured(lambda: compute_digests(leaves))[0] for _ in range(SAVES)]
    speed = size / statistics.median(times)
    print(f"digest: {speed / 1e9:.2f} GB/s (bar {DIGEST_BAR / 1e9:.0f}), median of {SAVES}")
    return speed < DIGEST_BAR


def report_restores(checkpoints: Checkpoints, state: Any, size: int) -> bool:
    """Print the speed of a restore; returns whether it is too slow compared with the disk."""
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    step = checkpoints.latest_step()
    assert step is not None
    path = checkpoints.directory / str(step)
    sides: dict[str, Callable[[], Any]] = {
        "disk": lambda: read_files(path),
        "loaded": lambda: load_leaves(path, named_leaves(wanted)),
        "restored": lambda: checkpoints.open(step).restore(wanted),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(REPETITIONS + 1):
        for name, side in sides.items():
            drop_from_page_cache(path)
            seconds, _ = measured(lambda side=side: jax.block_until_ready(side()))
            if repetition:  # the first restore compiles
                times[name].append(seconds)
    speeds = {name: size / statistics.median(found) for name, found in times.items()}
    ratios = {name: speed / speeds["disk"] for name, speed in speeds.items()}
    disk, loaded, restored = (f"{speed / 1e9:.2f} GB/s" for speed in speeds.values())
    print(f"disk: {disk}, the same files, not in the page cache; medians of {REPETITIONS}")
    print(f"restore: {restored} with its digests, {ratios['restored']:.2f} of the disk (bar {RESTORE_BAR});")
    print(f"  {loaded} without, {ratios['loaded']:.2f} of the disk")
    return ratios["restored"] < RESTORE_BAR


def measured(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def read_files(directory: Path) -> None:
    buffer = bytearray(READ_BYTES)
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass


def drop_from_page_cache(directory: Path) -> None:
    os.sync()  # what is not written yet cannot be dropped
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(main())
