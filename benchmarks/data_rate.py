"""Measures tokens a second from one core: packed causal rows, and sentence pairs with dynamic masking.

    python benchmarks/data_rate.py

Reads prepared rows of the embedded corpus at 128 tokens, pinned to one core, and prints each rate, the bar
it must pass and the ratio of the two; the exit status is 1 if a bar is missed. JAX is not needed.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from flaxmill.data.batches import Batches
from flaxmill.data.config import DataConfig
from flaxmill.data.prepared.preparation import prepare

BARS: dict[str, float] = {"causal": 1e6, "mlm_nsp": 2e5}
BATCH_SIZE = 256
SECONDS = 3.0


def measure(objective: str, cache: Path) -> float:
    """Real (unpadded) tokens a second of consecutive training batches, files open and warm."""
    config = DataConfig(tokenizer="wordpiece" if objective == "mlm_nsp" else "bpe")
    dataset = prepare(config, objective, cache=cache, log=lambda line: print(f"  {line}"))
    batches = Batches(dataset, "train", config=config, objective=objective, batch_size=BATCH_SIZE, seed=0)
    batches.batch(0)
    # Pinned only now: preparation may use every core.
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    step, num_tokens, started = 0, 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        step += 1
        num_tokens += int(batches.batch(step)["mask"].sum())
    rate = num_tokens / (time.perf_counter() - started)
    if cores:
        os.sched_setaffinity(0, cores)
    return rate


def main() -> int:
    """Prints both rates."""
    missed = False
    with tempfile.TemporaryDirectory() as cache:
        for objective, bar in BARS.items():
            rate = measure(objective, Path(cache))
            missed |= rate < bar
            print(f"{objective}: {rate:,.0f} tokens/s on one core, bar {bar:,.0f}, ratio {rate / bar:.2f}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
