"""Measures an import's memory, compared with the file's size, and its time, compared with safetensors' load.

    python benchmarks/import_weights.py

Writes a GPT-2 (stored as this project stores it, but fused) and a LLaMA (every matrix transposed) of 1 GB or
more to a temporary directory, and loads each in fresh processes, in turns with `safetensors.numpy.load_file`
and one copy of every tensor. Prints medians: growth of peak anonymous memory (mapped file pages can be
dropped at any time and do not count) over the file's size, and seconds of both sides; the exit status is 1
if a bar is missed. It needs Linux, which reports anonymous memory separately.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np

from flaxmill.model import ModelConfig, load_huggingface, save_huggingface
from flaxmill.model.functional import abstract_params

MEMORY_BAR, TIME_BAR = 1.3, 3.0
REPETITIONS = 5
SAMPLE_SECONDS = 0.001

MODELS = {
    "GPT-2 medium": ModelConfig(
        family="gpt2", vocab_size=50_257, max_positions=1024, num_layers=24, embed_dim=1024, num_heads=16,
        head="lm", causal=True,
    ),
    "LLaMA, 6 layers of 1536": ModelConfig(
        family="llama", vocab_size=32_000, num_layers=6, embed_dim=1536, num_heads=16, num_kv_heads=8,
        mlp_dim=6144, positions="rotary", norm="rmsnorm", norm_epsilon=1e-6, activation="silu",
        gated_mlp=True, use_bias=False, tie_embeddings=False, head="lm", causal=True,
    ),
}  # fmt: skip


def main() -> int:
    """Prints both ratios of each model."""
    missed = False
    for name, config in MODELS.items():
        with tempfile.TemporaryDirectory() as directory:
            write_model(directory, config)
            missed |= report(name, Path(directory))
    return int(missed)


def write_model(directory: str, config: ModelConfig) -> None:
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.standard_normal(leaf.shape, np.float32)  # noqa: E731
    save_huggingface(directory, config, jax.tree.map(draw, abstract_params(config)))


def report(name: str, directory: Path) -> bool:
    """Print both ratios of a model; returns whether a bar was missed."""
    size = (directory / "model.safetensors").stat().st_size
    sides: dict[str, list[dict[str, float]]] = {"ours": [], "safetensors": []}
    for repetition in range(REPETITIONS + 1):
        for side, runs in sides.items():
            run = measured_process(side, directory)
            if repetition:  # the first pair only brings the file into the page cache
                runs.append(run)
    growth = statistics.median(run["growth"] for run in sides["ours"]) / size
    ours, theirs = (statistics.median(run["seconds"] for run in runs) for runs in sides.values())
    print(f"{name}, {size / 1e9:.2f} GB of float32, medians of {REPETITIONS}")
    print(f"  memory: {growth:.2f} x the file (bar {MEMORY_BAR})")
    print(
        f"  time: {ours:.2f} s, safetensors + copy {theirs:.2f} s, ratio {ours / theirs:.2f} (bar {TIME_BAR})"
    )
    return growth > MEMORY_BAR or ours / theirs > TIME_BAR


def measured_process(side: str, directory: Path) -> dict[str, float]:
    command = [sys.executable, __file__, side, str(directory)]
    # On an accelerator the parameters would leave the memory that is measured.
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def measure(side: str, directory: Path) -> dict[str, float]:
    """Seconds of one load in this process, and bytes by which its anonymous memory grew at most."""
    jax.block_until_ready(jax.numpy.zeros(1))  # the backend starts before the clock
    before, peak, done = anonymous_bytes(), 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_SECONDS):
            peak = max(peak, anonymous_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    started = time.perf_counter()
    loaded = load_huggingface(directory) if side == "ours" else load_safetensors(directory)
    seconds = time.perf_counter() - started
    done.set()
    sampler.join()
    peak = max(peak, anonymous_bytes())
    del loaded
    return {"seconds": seconds, "growth": peak - before}


def load_safetensors(directory: Path) -> list[np.ndarray]:
    from safetensors.numpy import load_file

    return [array.copy() for array in load_file(directory / "model.safetensors").values()]


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
    else:
        sys.exit(main())
