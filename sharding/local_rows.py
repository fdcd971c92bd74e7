"""What a device does with its own rows: it gathers the weights that it needs, and gives back gradients.

The loss of a step runs inside `on_local_rows`. There all axes but `tensor` are the program's own: an array
is what one device holds of it, and nothing is sent but by the functions of this file and of the other files
that are named local_. Gathers and reductions have the dtype, the place and the number that are written here,
whatever compiler comes after. The axis `tensor` stays the compiler's, which divides the work by the table of
rules.py.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from flaxmill.sharding.collectives import all_gather, device_sum, reduce_scatter, rows_of_all
from flaxmill.sharding.placement import has_tokens
from flaxmill.sharding.rules import (
    ACTIVATION_RULES,
    PARAMETER_RULES,
    LogicalAxes,
    divides_work,
    is_free,
    num_shards,
    partition_spec,
)

_gradient_dtype: contextvars.ContextVar[Any] = contextvars.ContextVar("gradient_dtype", default=jnp.float32)


def own_axes(mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """The mesh axes along which each device has rows of its own, or tokens of its own of the same rows."""
    names = (*(ACTIVATION_RULES["batch"] or ()), ACTIVATION_RULES["row_tokens"])
    return tuple(name for name in names if isinstance(name, str) and name in mesh.shape)


def rows_spec(mesh: Mesh | AbstractMesh, *, with_tokens: bool = False) -> PartitionSpec:
    """Splits an array of rows, for `on_local_rows`; `with_tokens`: it has a dimension of tokens after it."""
    names = ("batch", "row_tokens") if with_tokens else ("batch",)
    return partition_spec(names, ACTIVATION_RULES, mesh)


def batch_specs(mesh: Mesh | AbstractMesh, batch: Mapping[str, Any]) -> dict[str, PartitionSpec]:
    """Splits the arrays of a batch, for `on_local_rows`."""
    return {name: rows_spec(mesh, with_tokens=has_tokens(name, x.ndim)) for name, x in batch.items()}


def parameter_spec(mesh: Mesh | AbstractMesh, axes: LogicalAxes) -> PartitionSpec:
    """How a parameter of these logical axes is split along the axes of the rows, for `on_local_rows`."""
    own = own_axes(mesh)
    return PartitionSpec(*(_split_names(axis, own) or None for axis in axes))


def on_local_rows(run: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`run` on each device's rows and shards of parameters; on one device `run` itself.

    Args:
      in_specs, out_specs: trees of specs that name the axes of the rows alone.
    """
    names = own_axes(mesh)
    if num_shards(names, mesh) == 1:
        return run
    # Axes of one device are taken too: where there are no others, kernels need no partitioner at all.
    own = set(names) | {name for name, size in mesh.shape.items() if size == 1}
    # check_vma=False: every reduction is written out.
    return jax.shard_map(
        run, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names=own, check_vma=False
    )


@contextlib.contextmanager
def gradients_sent_as(dtype: Any) -> Iterator[None]:
    """Gradients of weights leave their products, and are reduced, in this dtype."""
    token = _gradient_dtype.set(dtype)
    try:
        yield
    finally:
        _gradient_dtype.reset(token)


def gradient_dtype(x: jax.Array) -> Any:
    """The dtype in which the gradient of a weight leaves its product with x."""
    return x.dtype if x.dtype == jnp.float64 else _gradient_dtype.get()


def gather(shard: jax.Array, axes: LogicalAxes, dtype: Any, *, but: str | None = None) -> jax.Array:
    """A weight as its products need it: in the compute dtype, and whole along the axes of the rows,
    of experts the device's own.

    It takes no gradient: a product gives the gradient to the shard, by `scatter`.

    Args:
      but: a mesh axis along which it stays as it is.
    """
    x = jax.lax.stop_gradient(shard).astype(dtype)
    for dim, name in reversed(_gathered_dims(axes)):  # the last axis splits what the others have split
        if name != but:
            x = on_shards(functools.partial(all_gather, name=name, dim=dim), axes)(x)
    return x


def scatter(gradient: jax.Array, axes: LogicalAxes, *, but: str | None = None) -> jax.Array:
    """A device's share of a weight's gradient; the way back of `gather`.

    It is summed over the devices that hold the other shards, and not yet over those that hold the same one:
    `sum_gradients` does that once a step.
    """
    for dim, name in _gathered_dims(axes):
        if name != but:
            gradient = on_shards(functools.partial(reduce_scatter, name=name, dim=dim), axes)(gradient)
    return gradient


def sum_gradients(gradients: Any, axes: Any) -> Any:
    """Gradients summed over the devices that hold the same shards of weights with these logical axes.

    Those of experts are complete over the axis that divides them: its rows have come to them.
    """
    mesh = jax.sharding.get_abstract_mesh()

    def sum_one(gradient: jax.Array, axes: LogicalAxes) -> jax.Array:
        split = {name for _, name in _split_dims(axes)}
        others = tuple(name for name in _own(mesh) if name not in split)
        if not others:
            return gradient
        low = gradient.astype(_gradient_dtype.get())
        return on_shards(lambda x: device_sum(x, others), axes)(low).astype(gradient.dtype)

    return jax.tree.map(sum_one, gradients, axes)


def sum_over_rows(sums: Any) -> Any:
    """Sums over this device's rows and tokens, added up over all devices."""
    own = _own(jax.sharding.get_abstract_mesh())
    return jax.tree.map(lambda x: jax.lax.psum(x, own), sums) if own else sums


def rows_of_all_devices(x_B: jax.Array) -> jax.Array:
    """[N,...]: the rows [B,...] of all devices, in one order on all of them. Gradients come back summed."""
    mesh = jax.sharding.get_abstract_mesh()
    for name in _own(mesh):
        if name != ACTIVATION_RULES["row_tokens"]:  # along it devices share their rows
            x_B = rows_of_all(x_B, name)
    return x_B


def weights_are_split() -> bool:
    """Whether a device has only a part of each weight, which it must gather."""
    return bool(_split_dims(("embed",)))


def on_shards(
    run: Callable[[jax.Array], jax.Array], axes: LogicalAxes, out_axes: LogicalAxes | None = None
) -> Callable[[jax.Array], jax.Array]:
    """`run` on the parts of a weight that the compiler's axes divide; else it would join them first.

    Args:
      out_axes: logical axes of its result, if they are others.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not divides_work(mesh):
        return run
    spec, out_spec = (partition_spec(each, PARAMETER_RULES, mesh) for each in (axes, out_axes or axes))
    free = {name for name in mesh.shape if is_free(name, mesh)}
    return jax.shard_map(run, in_specs=spec, out_specs=out_spec, axis_names=free, check_vma=False)


def _split_dims(axes: LogicalAxes) -> Sequence[tuple[int, str]]:
    """The dimensions of a weight that are split along the axes of the rows, here, and the axis of each."""
    own = _own(jax.sharding.get_abstract_mesh())
    return [(dim, name) for dim, axis in enumerate(axes) for name in _split_names(axis, own)]


def _gathered_dims(axes: LogicalAxes) -> Sequence[tuple[int, str]]:
    """The dimensions of a weight that a device has whole when it computes, and how they are split else."""
    return [(dim, name) for dim, name in _split_dims(axes) if axes[dim] != "experts"]


def _own(mesh: AbstractMesh) -> tuple[str, ...]:
    """The axes of several devices along which this program sees one's part of a batch; (): it sees all."""
    return tuple(name for name in own_axes(mesh) if name in mesh.manual_axes and mesh.shape[name] > 1)


def _split_names(axis: str | None, own: Sequence[str]) -> tuple[str, ...]:
    entry = None if axis is None else PARAMETER_RULES[axis]
    names = () if entry is None else (entry,) if isinstance(entry, str) else entry
    return tuple(name for name in names if name in own)
