"""What devices send each other along a mesh axis, for programs that see one device's part of an array."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from flaxmill.sharding.mesh import MOST_TPU_SHARDS
from flaxmill.sharding.rules import platform

Groups = list[list[int]]
_LANES = 128  # numbers in a vector of a TPU


def all_gather(x: jax.Array, name: str, dim: int) -> jax.Array:
    """The parts of all devices along a mesh axis, one after another along `dim`."""
    for groups in reversed(_stages(name)):
        x = jax.lax.all_gather(x, name, axis=dim, axis_index_groups=groups, tiled=True)
    return x


def reduce_scatter(x: jax.Array, name: str, dim: int) -> jax.Array:
    """A device's part along `dim` of the sum over the devices along a mesh axis."""
    scatter = _scatter_on_tpu if platform() == "tpu" else _scatter
    for groups in _stages(name):
        x = _reduce(functools.partial(scatter, dim=dim, name=name, groups=groups), x)
    return x


def all_to_all(x: jax.Array, name: str, split: int, join: int) -> jax.Array:
    """Parts of x along the dimension `split`, one for each device along a mesh axis, and those that it gets,
    one after another along `join`."""
    return jax.lax.all_to_all(x, name, split_axis=split, concat_axis=join, tiled=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def rows_of_all(x_N: jax.Array, name: str) -> jax.Array:
    """[D*N,...]: the rows [N,...] of all D devices along a mesh axis. Gradients are summed in their dtype."""
    return all_gather(x_N, name, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def sum_of_own_rows(x_DN: jax.Array, name: str) -> jax.Array:
    """[N,...]: a device's own rows in the sum over the devices; the way back of `rows_of_all`."""
    return reduce_scatter(x_DN, name, 0)


# Each is the other's transpose, in the form that the platform's compiler takes.
rows_of_all.defvjp(
    lambda x, name: (rows_of_all(x, name), None), lambda name, _, g: (sum_of_own_rows(g, name),)
)
sum_of_own_rows.defvjp(
    lambda x, name: (sum_of_own_rows(x, name), None), lambda name, _, g: (rows_of_all(g, name),)
)


def device_sum(x: jax.Array, names: str | Sequence[str]) -> jax.Array:
    """The sum of x over the devices along these mesh axes."""
    return _reduce(lambda x: jax.lax.psum(x, names), x)


def _scatter(x: jax.Array, dim: int, name: str, groups: Groups | None) -> jax.Array:
    return jax.lax.psum_scatter(x, name, scatter_dimension=dim, axis_index_groups=groups, tiled=True)


def _scatter_on_tpu(x: jax.Array, dim: int, name: str, groups: Groups | None) -> jax.Array:
    """`_scatter` of an array whose form the TPU compiler scatters; of others it sums the whole array.

    It takes no dimension of one, as the kernel of a single head has, and no matrix that leaves a device rows
    of less than a vector. Cut into blocks of rows, that matrix has columns for vectors.
    """
    size = len(groups[0]) if groups else jax.sharding.get_abstract_mesh().shape[name]
    shape = (*x.shape[:dim], x.shape[dim] // size, *x.shape[dim + 1 :])
    kept = [place for place, length in enumerate(x.shape) if length > 1 or place == dim]
    x, dim = x.reshape([x.shape[place] for place in kept]), kept.index(dim)
    if x.ndim == 2 and dim == 1 and x.shape[1] // size < _LANES and x.shape[0] % _LANES == 0:
        x, dim = x.reshape(-1, _LANES, x.shape[1]), 2
    return _scatter(x, dim, name, groups).reshape(shape)


def _reduce(run: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    # XLA:CPU ends the process at a sum of bfloat16 over devices, in a program that it divides in part.
    if platform() == "cpu" and x.dtype == jnp.bfloat16:
        return run(x.astype(jnp.float32)).astype(x.dtype)
    return run(x)


def _stages(name: str) -> list[Groups | None]:
    """The groups of devices among which a sum is scattered, stage after stage; None: all of them at once.

    The TPU compiler may turn a scatter among all devices of a slice into a sum of whole arrays, and a gather
    too where they are 64 or more, so both are done in two stages among many devices. A device first keeps the
    part of its block of neighbours, and then its own part of that. Both stages together send what one would.
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
