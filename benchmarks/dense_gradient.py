"""Measures what the written-out gradient of `dense` saves on a CPU, compared with plain `x @ w`.

Command: python benchmarks/dense_gradient.py
It computes gradients of one GELU MLP, 384 -> 1536 -> 384 on 1,024 tokens, and of a small GPT's whole loss.
Both sides take turns in one run, and medians are printed.
"""

import statistics
import time
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp

from flaxmill.model import ModelConfig, init_params
from flaxmill.model.layers import dense as dense_module
from flaxmill.model.layers.dense import dense
from flaxmill.train.objectives.losses import denominators, numerators

ROUNDS = 30
BAR = 1.0  # the primitive must not be slower than plain


def main() -> None:
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; medians of {ROUNDS} gradients, ms")
    for name, make in (("GELU MLP 384-1536-384, 1024 tokens", mlp_gradient), ("GPT 4 x 256", gpt_gradient)):
        ours, plain = compare(make(dense), make(plain_product))
        print(f"{name}: dense {ours:.1f}, x @ w {plain:.1f}, ratio {ours / plain:.2f} (bar {BAR:.2f})")


def plain_product(x: jax.Array, kernel: jax.Array, num_in: int = 1) -> jax.Array:
    return jnp.tensordot(x, kernel, num_in)


def mlp_gradient(product: Callable) -> Callable[[], object]:
    keys = jax.random.split(jax.random.key(0), 3)
    x_BTD = jax.random.normal(keys[0], (8, 128, 384))
    up_DF, down_FD = jax.random.normal(keys[1], (384, 1536)), jax.random.normal(keys[2], (1536, 384))

    def loss(x_BTD: jax.Array, up_DF: jax.Array, down_FD: jax.Array) -> jax.Array:
        return (product(jax.nn.gelu(product(x_BTD, up_DF)), down_FD) ** 2).sum()

    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    return lambda: gradient(x_BTD, up_DF, down_FD)


def gpt_gradient(product: Callable) -> Callable[[], object]:
    config = ModelConfig(
        vocab_size=2048, max_positions=256, num_layers=4, embed_dim=256, num_heads=8, causal=True, head="lm"
    )
    params = jax.jit(lambda: init_params(config, jax.random.key(0)))()
    tokens_BT = jax.random.randint(jax.random.key(1), (4, 256), 0, 2048)
    batch = {"tokens": tokens_BT, "targets": tokens_BT, "weights": jnp.ones(tokens_BT.shape)}

    def loss(params: dict) -> jax.Array:
        sums = numerators("causal", config, params, batch, max_predictions=None)
        return sums["causal"] / denominators("causal", batch)["causal_weight"]

    # The product is looked up while the loss is traced, so it is replaced only during tracing.
    with mock.patch.object(dense_module, "dense", product):
        gradient = jax.jit(jax.grad(loss)).lower(params).compile()
    return lambda: gradient(params)


def compare(*sides: Callable[[], object]) -> list[float]:
    """Median milliseconds of each side, taking turns so that other load on the machine hits both."""
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(ROUNDS + 1):
        for side, times in zip(sides, seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(side())
            times.append(time.perf_counter() - start)
    return [1e3 * statistics.median(times[1:]) for times in seconds]


if __name__ == "__main__":
    main()
