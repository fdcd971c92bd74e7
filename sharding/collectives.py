"""What devices send each other along a mesh axis, for programs that see one device's part of an array."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from flaxmill.sharding.mesh import MOST_TPU_SHARDS
from flaxmill.sharding.rules import platform

Groups = list[list[int]]


def all_gather(x: jax.Array, name: str, dim: int) -> jax.Array:
    """The parts of all devices along a mesh axis, one after another along `dim`."""
    for groups in reversed(_stages(name)):
        x = jax.lax.all_gather(x, name, axis=dim, axis_index_groups=groups, tiled=True)
    return x


def reduce_scatter(x: jax.Array, name: str, dim: int) -> jax.Array:
    """A device's part along `dim` of the sum over the devices along a mesh axis."""
    for groups in _stages(name):
        x = _reduce(
            lambda x, groups=groups: jax.lax.psum_scatter(
                x, name, scatter_dimension=dim, axis_index_groups=groups, tiled=True
            ),
            x,
        )
    return x


def device_sum(x: jax.Array, names: str | Sequence[str]) -> jax.Array:
    """The sum of x over the devices along these mesh axes."""
    return _reduce(lambda x: jax.lax.psum(x, names), x)


def _reduce(run: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    # XLA:CPU ends the process at a sum of bfloat16 over devices, in a program that it divides in part.
    if platform() == "cpu" and x.dtype == jnp.bfloat16:
        return run(x.astype(jnp.float32)).astype(x.dtype)
    return run(x)


def _stages(name: str) -> list[Groups | None]:
    """The groups of devices among which a sum is scattered, stage after stage; None: all of them at once.

    The TPU compiler turns a scatter among 64 devices into a sum of whole arrays, so it is done in two stages.
    A device first keeps the part of its block of neighbours, and then its own part of that. Both together
    send what one would.
    """
    num_devices = jax.sharding.get_abstract_mesh().shape[name]
    if platform() != "tpu" or num_devices <= MOST_TPU_SHARDS:
        return [None]
    inner = _block(num_devices)
    if inner == 1:
        return [None]
    blocks = [list(range(start, start + inner)) for start in range(0, num_devices, inner)]
    return [[list(across) for across in zip(*blocks, strict=True)], blocks]


def _block(num_devices: int) -> int:
    """The number of neighbours in a block: a divisor near the root, so that both stages have few devices."""
    divisors = [d for d in range(1, num_devices + 1) if num_devices % d == 0]
    fitting = [d for d in divisors if max(d, num_devices // d) <= MOST_TPU_SHARDS]
    return min(fitting, key=lambda d: (abs(d - num_devices / d), d), default=1)
