"""The one table that says which mesh axis splits which logical axis."""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

MeshAxes = str | tuple[str, ...] | None
LogicalAxes = Sequence[str | None]

# The axes of a mesh:
#   data    each device has other rows, and all parameters; gradients are summed over it
#   fsdp    each device has other rows too, and a part of the parameters, gathered before each use
#   expert  each device has other rows too, and other experts of each layer: rows go to the experts they need
#   context each device has other tokens of the same rows, and all parameters; gradients are summed over it
#   stage   as fsdp, but for the layers of a pipeline: each device has some of them whole (local_stages.py)
#   tensor  each device computes a part of every layer: some heads, some of the MLP, some of the vocabulary

PARAMETER_RULES: Mapping[str, MeshAxes] = {
    "layers": None,  # layers run one after the other, on all devices
    "vocab": "tensor",  # the largest matrix; its logits are never whole on a device
    "embed": ("fsdp", "stage"),  # what every matrix has, so that all of them are stored in parts
    "heads": "tensor",  # a head attends by itself
    "kv_heads": "tensor",  # with its queries
    "head_dim": None,  # a head is whole
    "mlp": "tensor",  # each hidden unit is computed by itself; the second product sums them
    "experts": "expert",  # never gathered: rows are sent to them (local_experts.py)
    "expert_mlp": "tensor",  # some hidden units of each
    "positions": None,  # a table of positions is small
    "segments": None,  # as is one of segments
    "features": None,  # small vectors and second dimensions that stay whole
}

ACTIVATION_RULES: Mapping[str, MeshAxes] = {
    "batch": ("data", "stage", "fsdp", "expert"),  # each of these axes has rows of its own
    "row_tokens": "context",  # of a batch; whoever computes with parts of rows knows it (`local_rows.py`)
    "tokens": None,  # else a row is whole: every token may attend to every other
    "residual_tokens": None,  # between blocks; `tensor` splits them there inside `splits_residual`
    "embed": None,  # parameters are gathered along it
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
}

_splits_residual = contextvars.ContextVar("splits_residual", default=False)


def partition_spec(
    axes: LogicalAxes,
    rules: Mapping[str, MeshAxes],
    mesh: Mesh | AbstractMesh,
    shape: Sequence[int] | None = None,
) -> PartitionSpec:
    """The mesh axes of an array whose dimensions have these logical axes.

    Raises:
      ValueError: two dimensions want one mesh axis, or a dimension of `shape` does not divide.
    """
    entries = [None if axis is None else mesh_axes(axis, rules, mesh) for axis in axes]
    _check_collisions(axes, entries)
    if shape is not None:
        assert len(shape) == len(axes), f"shape {shape} does not have the dimensions {axes}"
        for axis, entry, size in zip(axes, entries, shape, strict=True):
            _check_divides(axis, entry, size, mesh)
    return PartitionSpec(*entries)


def mesh_axes(axis: str, rules: Mapping[str, MeshAxes], mesh: Mesh | AbstractMesh) -> MeshAxes:
    """The mesh axes that split a logical axis. Axes that the mesh lacks are left out, and axes along which
    the program already sees a device's own part (`local_rows.py`)."""
    kept = tuple(name for name in _as_tuple(rules[axis]) if name in mesh.shape and is_free(name, mesh))
    return kept if isinstance(rules[axis], tuple) else kept[0] if kept else None


def is_free(name: str, mesh: Mesh | AbstractMesh) -> bool:
    """Whether the compiler divides the work along this mesh axis; else the program has done it."""
    return name not in mesh.manual_axes


def divides_work(mesh: Mesh | AbstractMesh) -> bool:
    """Whether the compiler has axes of several devices to divide the work along."""
    return any(size > 1 and is_free(name, mesh) for name, size in mesh.shape.items())


def num_shards(entry: MeshAxes, mesh: Mesh | AbstractMesh) -> int:
    """The number of parts into which these mesh axes split a dimension."""
    return math.prod(mesh.shape[name] for name in _as_tuple(entry))


def parameter_sharding(mesh: Mesh, axes: LogicalAxes, shape: Sequence[int]) -> NamedSharding:
    """Where a parameter of this shape lives; errors as in `partition_spec`."""
    return NamedSharding(mesh, partition_spec(axes, PARAMETER_RULES, mesh, shape))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Hold an activation to ACTIVATION_RULES on the mesh in use (`jax.set_mesh`); no mesh: unchanged."""
    mesh = jax.sharding.get_abstract_mesh()
    if not divides_work(mesh):
        return x
    return jax.lax.with_sharding_constraint(x, _activation_spec(axes, mesh))


def on_activations(run: Callable[[jax.Array], jax.Array], *axes: str | None) -> Callable[..., jax.Array]:
    """`run` on the parts of an activation that the compiler's axes divide; else it would join them first."""
    mesh = jax.sharding.get_abstract_mesh()
    if not divides_work(mesh):
        return run
    spec = _activation_spec(axes, mesh)
    free = {name for name in mesh.shape if is_free(name, mesh)}
    return jax.shard_map(run, in_specs=spec, out_specs=spec, axis_names=free, check_vma=False)


def _activation_spec(axes: Sequence[str | None], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    rules = {**ACTIVATION_RULES, "residual_tokens": "tensor"} if _splits_residual.get() else ACTIVATION_RULES
    return partition_spec(axes, rules, mesh)


@contextlib.contextmanager
def splits_residual(splits: bool) -> Iterator[None]:
    """Split tokens over `tensor` between blocks, where each is computed by itself.

    Korthikanti et al. 2022, section 4.2.2.
    """
    token = _splits_residual.set(splits)
    try:
        yield
    finally:
        _splits_residual.reset(token)


def to_residual(x_BTD: jax.Array) -> jax.Array:
    """Hidden states as they are between blocks; a sum over `tensor` is scattered on its way there."""
    return _placed(("residual_tokens", "tokens"), x_BTD) if _splits_residual.get() else x_BTD


def from_residual(x_BTD: jax.Array) -> jax.Array:
    """Hidden states as a block reads them: rows are whole; the way back of `to_residual`."""
    return _placed(("tokens", "residual_tokens"), x_BTD) if _splits_residual.get() else x_BTD


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _placed(tokens: tuple[str, str], x_BTD: jax.Array) -> jax.Array:
    """x with its tokens under the first name, and its gradient with them under the second."""
    return constrain(x_BTD, "batch", tokens[0], None)


def _placed_forward(tokens: tuple[str, str], x_BTD: jax.Array) -> tuple[jax.Array, None]:
    return _placed(tokens, x_BTD), None


def _placed_backward(tokens: tuple[str, str], saved: None, g_BTD: jax.Array) -> tuple[jax.Array]:
    del saved
    return (constrain(g_BTD, "batch", tokens[1], None),)


_placed.defvjp(_placed_forward, _placed_backward)


def platform(mesh: Mesh | None = None) -> str:
    """cpu, gpu or tpu: the platform to compile for, which is the mesh's if a mesh is given or in use."""
    device = (jax.sharding.get_abstract_mesh() if mesh is None else mesh.abstract_mesh).abstract_device
    name = jax.default_backend() if device is None or device.platform is None else device.platform
    return {"cuda": "gpu", "rocm": "gpu"}.get(name, name)


def device_kind() -> str:
    """The kind of device to compile for, as its maker calls it."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.devices()[0].device_kind if device is None else device.device_kind


def _check_collisions(axes: LogicalAxes, entries: Sequence[MeshAxes]) -> None:
    owner: dict[str, str | None] = {}
    for axis, entry in zip(axes, entries, strict=True):
        for mesh_axis in _as_tuple(entry):
            if mesh_axis in owner:
                raise ValueError(
                    f"logical axes {owner[mesh_axis]!r} and {axis!r} of one array both map to the mesh axis "
                    f"{mesh_axis!r}; change the table in sharding/rules.py"
                )
            owner[mesh_axis] = axis


def _check_divides(axis: str | None, entry: MeshAxes, size: int, mesh: Mesh | AbstractMesh) -> None:
    shards = num_shards(entry, mesh)
    if size % shards:
        raise ValueError(
            f"a parameter's {axis!r} dimension of {size} does not divide over the mesh axis "
            f"{entry!r} of {shards}; change the size or the mesh"
        )


def _as_tuple(entry: MeshAxes) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else entry
