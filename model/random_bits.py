"""Random bits on CPUs, by a program that compiles in a tenth of the time and runs several times as fast."""

import jax
import jax.numpy as jnp
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
    """Two uint32 words of bits for each pair of words, and of key words, of one shape."""
    keys = (key_0, key_1, key_0 ^ key_1 ^ jnp.uint32(_PARITY))
    x_0, x_1 = x_0 + keys[0], x_1 + keys[1]
    for group in range(_GROUPS):
        for rotation in _ROTATIONS[group % 2]:
            x_0 = x_0 + x_1
            x_1 = x_0 ^ ((x_1 << rotation) | (x_1 >> (32 - rotation)))
        x_0 = x_0 + keys[(group + 1) % 3]
        x_1 = x_1 + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    # What reads the bits is compiled apart, as behind a loop: it rounds alike, and no bit is made twice.
    return tuple(jax.lax.optimization_barrier((x_0, x_1)))
