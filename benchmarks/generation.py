"""Compares greedy decoding with transformers' and with reading memory: GPT-2's 124M shape, random weights.

Command: python benchmarks/generation.py [ROUNDS [THREADS]]
It needs PyTorch and transformers (the extra `parity`). It decodes batches of 1 and 8 prompts of 32 tokens,
with 128 new tokens each, on one CPU. All sides take turns in one run, on the same weights and prompts;
medians are printed. flaxmill also decodes with weights of bfloat16 and int8. All are bound by reading the
weights, and the keys and values of each row, once a step: these bytes a second are compared with the peak
that a plain sum over memory reaches in the same process. CPU time is printed too: on a busy machine it
varies less than wall time, during which threads wait for each other. THREADS are PyTorch's; to limit both
sides to one thread, also start with `taskset -c 0`.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from flaxmill.model import GenerationConfig, Generator, ModelConfig, load_huggingface
from flaxmill.model.generation.config import WeightType

PROMPT_TOKENS, NEW_TOKENS = 32, 128
BARS = {1: 0.8, 8: 1.0}  # least ratio to transformers' tokens a second, by batch
PEAK_BYTES = 2**29
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
KEY_BYTES = 4  # on CPUs keys and values are float32


class Taken(NamedTuple):
    """Seconds of wall time, and seconds of CPU time."""

    wall: float
    cpu: float


class Contestants(NamedTuple):
    """Both sides, with the same weights."""

    ours: dict[str, Generator]
    """By the type of the weights."""
    config: ModelConfig
    theirs: Any
    num_weights: int


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else os.cpu_count() or 1)
    print(
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}; load {os.getloadavg()[0]:.1f}"
    )
    peak = peak_bandwidth()
    print(f"peak: the best sum over {PEAK_BYTES / 2**20:.0f} MiB reads {peak / 1e9:.1f} GB/s")
    both = make_contestants()
    prompts = np.random.default_rng(0).integers(0, 50_000, (max(BARS), PROMPT_TOKENS))
    runs = {
        batch: [*(ours(own, prompts[:batch]) for own in both.ours.values()), theirs(both, prompts[:batch])]
        for batch in BARS
    }
    for batch, (run, *narrow, other) in runs.items():
        first, again = measure(run).cpu, measure(run).cpu
        equal = np.array_equal(run(), other())
        for one in narrow:
            one()
        print(
            f"batch {batch}: compiled in {first - again:.1f} s of CPU; the tokens are equal: {equal}",
            flush=True,
        )
    measured: dict[int, list[list[Taken]]] = {batch: [[] for _ in runs[batch]] for batch in BARS}
    for _ in range(rounds):
        for batch, contestants in runs.items():
            for times, run in zip(measured[batch], contestants, strict=True):
                times.append(measure(run))
    for batch, times in measured.items():
        report(both, batch, [Taken(*map(statistics.median, zip(*side, strict=True))) for side in times], peak)
    print(f"medians of {rounds} runs; load {os.getloadavg()[0]:.1f}")


def make_contestants() -> Contestants:
    torch.manual_seed(0)
    config = transformers.GPT2Config(bos_token_id=None, eos_token_id=None)
    model = transformers.GPT2LMHeadModel(config).eval()
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        config, params = load_huggingface(directory)
    num_weights = (
        sum(leaf.size for leaf in jax.tree.leaves(params)) - params["embed"]["positions"]["embedding"].size
    )
    generators = {weights: Generator(config, params, weights) for weights in get_args(WeightType)}
    return Contestants(generators, config, model, num_weights)


def ours(generator: Generator, prompts_BT: np.ndarray) -> Callable[[], np.ndarray]:
    options = GenerationConfig(max_new_tokens=NEW_TOKENS)
    return lambda: np.asarray(generator.generate(prompts_BT.tolist(), options))


def theirs(both: Contestants, prompts_BT: np.ndarray) -> Callable[[], np.ndarray]:
    inputs = torch.from_numpy(prompts_BT)
    settings = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "pad_token_id": 0}

    def run() -> np.ndarray:
        with torch.no_grad():
            tokens = both.theirs.generate(inputs, attention_mask=torch.ones_like(inputs), **settings)
        return tokens[:, PROMPT_TOKENS:].numpy()

    return run


def report(both: Contestants, batch: int, sides: list[Taken], peak: float) -> None:
    mean_length = PROMPT_TOKENS + NEW_TOKENS / 2
    key_bytes = KEY_BYTES * batch * mean_length * 2 * both.config.num_layers * both.config.embed_dim
    kinds = [*((f"flaxmill {name}", WEIGHT_BYTES[name]) for name in both.ours), ("transformers", 4)]
    for (name, weight_bytes), taken in zip(kinds, sides, strict=True):
        rate = (weight_bytes * both.num_weights + key_bytes) * NEW_TOKENS / taken.wall
        print(
            f"batch {batch}: {name:17} {batch * NEW_TOKENS / taken.wall:6.1f} tokens/s, "
            f"{taken.wall / NEW_TOKENS * 1e3:5.1f} ms a step ({taken.cpu / NEW_TOKENS * 1e3:.1f} of CPU), "
            f"{rate / 1e9:5.1f} GB/s, {rate / peak:4.0%} of the peak"
        )
    own, other = sides[0], sides[-1]
    print(
        f"batch {batch}: ratio {other.wall / own.wall:.2f} (bar {BARS[batch]:.2f}), "
        f"of CPU time {other.cpu / own.cpu:.2f}"
    )


def peak_bandwidth() -> float:
    """Bytes a second that all cores together read: the best of PyTorch's sum and XLA's."""
    values = torch.ones(PEAK_BYTES // 4)
    array, add = jnp.ones(PEAK_BYTES // 4), jax.jit(jnp.sum)
    sums = (values.sum, lambda: add(array).block_until_ready())
    return max(PEAK_BYTES / measure(one).wall for _ in range(9) for one in sums)


def measure(run: Callable[[], Any]) -> Taken:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu)


if __name__ == "__main__":
    main()
