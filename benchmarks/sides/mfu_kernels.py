"""The kernels of mfu.py, which starts it: attention by each backend, and products as the ceiling.

cuDNN as flaxmill calls it reads a mask of [rows, tokens, tokens], since rows hold packed documents. Beside
it stands cuDNN without a mask, which sees the whole row: the difference is what separating documents costs.
"""

# B batch, T tokens, N heads, K key-value heads, H head dim

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from mfu import median_seconds

from flaxmill.model.layers.attention import attention
from flaxmill.model.layers.visibility import Visibility


class Shape(NamedTuple):
    """Sizes of a call."""

    B: int
    T: int
    N: int
    K: int
    H: int
    causal: bool


SHAPES = {
    "gpt2_124m": Shape(32, 1024, 12, 12, 64, True),
    "llama_1b": Shape(4, 4096, 32, 8, 64, True),
    "bert_base": Shape(64, 512, 12, 12, 64, False),
    "heads of 128": Shape(4, 4096, 16, 8, 128, True),
}
TINY = Shape(2, 64, 4, 2, 32, True)
CEILING_SIZE = 8192


def measure_kernels(tiny: bool) -> None:
    """A line for the product, and for each shape and backend."""
    size = 256 if tiny else CEILING_SIZE
    x, y = (jax.random.normal(jax.random.key(seed), (size, size), jnp.bfloat16) for seed in range(2))
    seconds = median_seconds(repeat(jax.jit(jnp.matmul), x, y))
    print(f"a bfloat16 product of {size}: {2 * size**3 / seconds / 1e12:.0f} TFLOP/s")
    for name, shape in ({"tiny": TINY} if tiny else SHAPES).items():
        for backend in ("cudnn", "cudnn without a mask", "xla"):
            try:
                seconds = median_seconds(repeat(*make_call(shape, backend)))
            except Exception as error:
                print(f"attention, {name}, {backend}: {type(error).__name__}: {error!s:.300}", flush=True)
                continue
            pairs = 4 * 3.5 * shape.B * shape.N * shape.T**2 * shape.H / (2 if shape.causal else 1)
            print(
                f"attention, {name}, {backend}: forward and backward {seconds * 1e3:.2f} ms, "
                f"{pairs / seconds / 1e12:.0f} TFLOP/s of the pairs that are seen",
                flush=True,
            )


def make_call(shape: Shape, backend: str) -> tuple[Any, ...]:
    """A compiled function of queries, keys and values that gives their gradients, and its arguments."""
    B, T, N, K, H, causal = shape
    keys = jax.random.split(jax.random.key(0), 4)
    heads = (N, K, K, N)
    q, k, v, gradient = (
        jax.random.normal(key, (B, T, count, H), jnp.bfloat16) for key, count in zip(keys, heads, strict=True)
    )

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array) -> jax.Array:
        if backend == "cudnn without a mask":
            return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="cudnn")
        return attention(q, k, v, Visibility(documents, causal), scale=H**-0.5, backend=backend)

    def run(q: jax.Array, k: jax.Array, v: jax.Array, gradient: jax.Array, documents: jax.Array) -> Any:
        out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, documents), q, k, v)
        return out, pull(gradient)

    return jax.jit(run), q, k, v, gradient, jnp.ones((B, T), jnp.int32)


def repeat(function: Callable[..., Any], *arguments: jax.Array) -> Callable[[int], None]:
    """Call it so many times, and wait for the last."""

    def run(steps: int) -> None:
        for _ in range(steps):
            found = function(*arguments)
        jax.block_until_ready(found)

    return run
