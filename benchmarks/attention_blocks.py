"""Measures attention in blocks beside attention over all pairs, on a CPU: time and peak memory.

Command: python benchmarks/attention_blocks.py
Forward and backward of 4,096 tokens in rows of 256 to 4,096, with 6 heads of 64, in float32. Both
sides take turns in one run; medians of processor time are printed, and temporaries by the compiler's figures.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flaxmill.model.layers.attention import block_size, prefers_blocks, xla_attention
from flaxmill.model.layers.blockwise_attention import blockwise_attention
from flaxmill.model.layers.visibility import Visibility

ROUNDS, TOKENS, HEADS, HEAD_DIM = 7, 4096, 6, 64
LENGTHS = (256, 512, 1024, 2048, 4096)
BAR = 1.0  # of blocks, where they are the default


def main() -> None:
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; medians of {ROUNDS}, blocks / all pairs")
    attend = functools.partial(blockwise_attention, block=block_size())
    for length in LENGTHS:
        for causal in (True, False):
            sides = [gradient(attend, length, causal), gradient(xla_attention, length, causal)]
            blocks, pairs = take_turns(*sides)
            memory = [side.memory_analysis().temp_size_in_bytes / 2**20 for side, _ in sides]
            bar = f" (bar {BAR:.2f})" if prefers_blocks(length, causal=causal) else ""
            print(
                f"rows of {length}, {'causal' if causal else 'both ways'}: {blocks:.0f} / {pairs:.0f} ms, "
                f"ratio {blocks / pairs:.2f}{bar}; {memory[0]:.0f} / {memory[1]:.0f} MiB",
                flush=True,
            )


def gradient(attend: Callable[..., jax.Array], length: int, causal: bool) -> tuple[Any, tuple]:
    """The compiled gradient, and what it is called with."""
    shape = (TOKENS // length, length, HEADS, HEAD_DIM)
    q, k, v = (jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 3))
    visible = Visibility(jnp.ones(shape[:2], jnp.int32), causal)

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return (attend(q, k, v, visible, scale=HEAD_DIM**-0.5) ** 2).sum()

    return jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, v).compile(), (q, k, v)


def take_turns(*sides: tuple[Any, tuple]) -> list[float]:
    """Median milliseconds of processor time, on all cores together."""
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(ROUNDS + 1):
        for (run, arguments), times in zip(sides, seconds, strict=True):
            start = time.process_time()
            jax.block_until_ready(run(*arguments))
            times.append(time.process_time() - start)
    return [1e3 * statistics.median(times[1:]) for times in seconds]


if __name__ == "__main__":
    main()
