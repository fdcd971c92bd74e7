"""What a device does with layers of its own: stages of a pipeline along the mesh axis `stage`.

Outside the pipeline the axis is one of the rows' axes: each device has rows of its own, and a part of each
weight. Inside, a device has some whole layers, and sees the rows of all stages. This file leads from one to
the other and back; all of it runs inside `on_local_rows`.
"""

# S stages, R rounds, L layers of a stack, l layers of a stage and round, N rows of a device, B = S x N rows

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxmill.sharding.collectives import all_to_all, rows_of_all, sum_of_own_rows
from flaxmill.sharding.local_rows import gather, gradient_dtype, on_shards, scatter
from flaxmill.sharding.open_weights import OpenWeight
from flaxmill.sharding.rules import LogicalAxes

STAGE = "stage"


def num_stages() -> int:
    """The devices that share the layers, if this program sees those of one of them."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[STAGE] if STAGE in mesh.manual_axes else 1


def stage_number() -> jax.Array:
    """int32: which stage this device is."""
    return jax.lax.axis_index(STAGE)


def pass_on(x: jax.Array) -> jax.Array:
    """What the stage before this one has; the first follows the last."""
    size = num_stages()
    return jax.lax.ppermute(x, STAGE, [(stage, (stage + 1) % size) for stage in range(size)])


def all_rows(x_N: jax.Array) -> jax.Array:
    """[B,...]: the rows of all stages, from each one's [N,...]."""
    return rows_of_all(x_N, STAGE)


def own_rows(x_B: jax.Array) -> jax.Array:
    """[N,...]: each stage's rows of the sum over stages; the way back of `all_rows`."""
    return sum_of_own_rows(x_B, STAGE)


def own_layers(shard: jax.Array, axes: LogicalAxes, num_rounds: int, dtype: Any) -> Any:
    """[R,l,...]: this stage's layers of a parameter [L,...], of whose layers each device has a part.

    Layers go round: stage s has those of run r * S + s in round r. A parameter that is split over stages
    comes as an OpenWeight in `dtype`; what is not, as it is.

    Args:
      axes: of one layer.
    """
    if "embed" not in axes:
        return _of_rounds(shard, num_rounds)[:, stage_number()]
    opened: Any = _open(_Static(tuple(axes), num_rounds, dtype), shard)
    return OpenWeight(*opened)


class _Static(NamedTuple):
    axes: LogicalAxes
    num_rounds: int
    dtype: Any


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _open(static: _Static, shard: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Once a step: the cast weights change hands, so that a stage has whole layers, and are gathered then."""
    stacked, rounds = ("layers", *static.axes), (None, "layers", *static.axes)
    dim = static.axes.index("embed")

    def exchange(x: jax.Array) -> jax.Array:
        x = _of_rounds(x, static.num_rounds)
        return all_to_all(x, STAGE, split=1, join=dim + 3)[:, 0]

    own = on_shards(exchange, stacked, rounds)(shard.astype(static.dtype))
    whole = gather(own, rounds, static.dtype, but=STAGE)
    return whole, jnp.zeros(whole.shape, shard.dtype)


def _open_forward(static: _Static, shard: jax.Array):
    return _open(static, shard), None


def _open_backward(static: _Static, saved: None, gradients: tuple[jax.Array, jax.Array]):
    del saved
    stacked, rounds = ("layers", *static.axes), (None, "layers", *static.axes)
    dim = static.axes.index("embed")
    whole = gradients[1]
    own = scatter(whole.astype(gradient_dtype(whole)), rounds, but=STAGE)

    def exchange(g: jax.Array) -> jax.Array:
        g = all_to_all(g[:, None], STAGE, split=dim + 3, join=1)
        return g.reshape(-1, *g.shape[3:])

    return (on_shards(exchange, rounds, stacked)(own).astype(whole.dtype),)


_open.defvjp(_open_forward, _open_backward)


def _of_rounds(x: jax.Array, num_rounds: int) -> jax.Array:
    """[L,...] -> [R,S,l,...]"""
    return x.reshape(num_rounds, num_stages(), -1, *x.shape[1:])
