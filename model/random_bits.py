"""Random bits on CPUs, by a program that compiles in a tenth of the time and runs several times as fast."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir

# Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3": Threefry-2x32 of 20 rounds.
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_GROUPS = 5  # of four rounds


def unroll_random_bits() -> None:
    """Have JAX write the rounds of its generator one after another on CPUs, as it does on accelerators.

    On CPUs JAX writes a loop of rounds, which takes XLA ten times as long to compile, and each turn of which
    passes over all of the bits. The bits are the same. Call it before anything is compiled.
    """
    lowering = mlir.lower_fun(_threefry, multiple_results=True)
    mlir.register_lowering(threefry2x32_p, lowering, platform="cpu")


def _threefry(key_0: jax.Array, key_1: jax.Array, x_0: jax.Array, x_1: jax.Array) -> tuple[jax.Array, ...]:
    """Two uint32 words of bits for each pair of words, and of key words, of one shape.

    Operators would take twice as long to trace as these primitives, and a model draws many arrays.
    """

    def word(number: int) -> jax.Array:
        return lax.full(x_0.shape, number, jnp.uint32)

    keys = (key_0, key_1, lax.bitwise_xor(lax.bitwise_xor(key_0, key_1), word(_PARITY)))
    x_0, x_1 = lax.add(x_0, keys[0]), lax.add(x_1, keys[1])
    for group in range(_GROUPS):
        for rotation in _ROTATIONS[group % 2]:
            x_0 = lax.add(x_0, x_1)
            left = lax.shift_left(x_1, word(rotation))
            right = lax.shift_right_logical(x_1, word(32 - rotation))
            x_1 = lax.bitwise_xor(x_0, lax.bitwise_or(left, right))
        x_0 = lax.add(x_0, keys[(group + 1) % 3])
        x_1 = lax.add(lax.add(x_1, keys[(group + 2) % 3]), word(group + 1))
    # What reads the bits is compiled apart, as behind a loop: it rounds alike, and no bit is made twice.
    return tuple(lax.optimization_barrier((x_0, x_1)))
