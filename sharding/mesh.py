"""The device mesh: how many devices each kind of parallelism gets, and which device stands where in it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from jax.sharding import Mesh

AXES = ("data", "stage", "fsdp", "expert", "context", "tensor")
"""The axes of a mesh in their order: those that send least come first, over the slowest wires."""

_USUAL = ("data", "fsdp", "tensor")

MOST_TPU_SHARDS = 32
"""The devices that a free fsdp axis takes on TPU, and that gather or scatter at once: among all 64 of a slice
XLA does either by summing whole arrays, which sends twice as much (libtpu 0.0.42)."""


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis; at most one axis may be None: it takes the remaining devices."""

    data: int | None = None
    """Copies of the weights; each reads its own rows."""
    fsdp: int | None = 1
    """Shards of weights and optimizer state, gathered layer by layer; also splits the rows. If this is None,
    `data` is the least number of copies: it grows to a multiple of `slices`, and on TPU so far that fsdp is
    32 or less."""
    tensor: int | None = 1
    """Shards of heads, MLP and vocabulary within a layer."""
    expert: int | None = 1
    """Groups into which a layer's experts are divided, each on other devices; also splits the rows, which are
    sent to the experts that they need. Other weights are whole in each group."""
    context: int | None = 1
    """Parts of each row, whose tokens attend to each other across devices: for rows too long for one."""
    stage: int | None = 1
    """Stages of a pipeline, each with layers of its own, through which microbatches pass: for more layers
    than fsdp carries well."""
    slices: int = 1
    """Groups of devices with slow wires between them, such as TPU slices. `data` is split over them first, so
    that they exchange gradients alone."""

    sequence_parallel: bool = False
    """Split tokens over `tensor` between blocks, where each is computed by itself: activations take
    1 / tensor of the memory, and sums over `tensor` become a scatter and a gather (Korthikanti et al.
    2022)."""

    def __post_init__(self) -> None:
        sizes = axis_sizes(self)
        for axis, size in (sizes | {"slices": self.slices}).items():
            if size is not None and size < 1:
                fix = "" if axis == "slices" else ", or None for the remaining devices"
                raise ValueError(f"mesh.{axis}={size} must be at least 1{fix}")
        free = [axis for axis, size in sizes.items() if size is None]
        if len(free) > 1:
            raise ValueError(
                f"mesh.{' and mesh.'.join(free)} are None; only one axis can take the remaining devices"
            )


def axis_sizes(config: MeshConfig) -> dict[str, int | None]:
    """The config as {axis: size}, in mesh order."""
    return {axis: getattr(config, axis) for axis in AXES}


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> "Mesh":
    """Lay the devices out as a mesh.

    A mesh smaller than the machine uses its first devices, on one process only.

    Args:
      devices: those to use, which may be absent ones; None: all that JAX finds.

    Raises:
      ValueError: the mesh asks for more devices than there are, does not divide them, or has other slices.
    """
    import jax  # here, so that no config file waits for it

    are_here = devices is None
    devices = jax.devices() if devices is None else devices
    sizes = fill_free_axis(config, len(devices), devices[0].platform)
    wanted = math.prod(sizes.values())
    if are_here and wanted < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"{_text(sizes)} uses {wanted} of {len(devices)} devices; with {jax.process_count()} processes "
            "every device must be used: leave one axis None"
        )
    grid = _arrange(devices, sizes, config.slices)
    return jax.sharding.Mesh(grid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def fill_free_axis(config: MeshConfig, num_devices: int, platform: str) -> dict[str, int]:
    """The devices along each axis, for so many devices of a platform; errors as in `make_mesh`."""
    sizes = axis_sizes(config)
    if sizes["fsdp"] is None and sizes["data"] is not None:
        sizes["data"] = math.lcm(sizes["data"], config.slices)
    fixed = math.prod(size for size in sizes.values() if size is not None)
    if fixed > num_devices:
        simulate = ", or set JAX_NUM_CPU_DEVICES to simulate more" if platform == "cpu" else ""
        raise ValueError(
            f"{_text(sizes)} asks for {fixed} devices but there are {num_devices}; lower an axis{simulate}"
        )
    if None in sizes.values() and num_devices % fixed:
        raise ValueError(
            f"{_text(sizes)}: {num_devices} devices do not divide by {fixed}; change the axes that are set"
        )
    filled = {axis: num_devices // fixed if size is None else size for axis, size in sizes.items()}
    if sizes["fsdp"] is None and platform == "tpu":
        filled = _with_small_groups(filled)
    if filled["data"] % config.slices:
        raise ValueError(
            f"mesh.data={filled['data']} is not a multiple of mesh.slices={config.slices}, over which it is "
            f"split first; use mesh.data={math.lcm(filled['data'], config.slices)}, or other slices"
        )
    return filled


def describe_shape(shape: Mapping[str, int]) -> str:
    """data=4 fsdp=2 tensor=1: these axes, and others along which there are several devices."""
    return " ".join(f"{axis}={size}" for axis, size in shape.items() if axis in _USUAL or size > 1)


def describe_free_axis(config: MeshConfig, mesh: "Mesh") -> str | None:
    """Why `data` is larger than the config says; None: it is not."""
    if config.data is None or mesh.shape["data"] == config.data:
        return None
    return (
        f"mesh.fsdp=None takes {mesh.shape['fsdp']} devices and mesh.data takes the rest, "
        f"{mesh.shape['data']}; set both for another mesh"
    )


def _with_small_groups(sizes: dict[str, int]) -> dict[str, int]:
    remaining = sizes["fsdp"]
    fsdp = max(size for size in range(1, MOST_TPU_SHARDS + 1) if remaining % size == 0)
    return sizes | {"fsdp": fsdp, "data": sizes["data"] * (remaining // fsdp)}


def _arrange(devices: Sequence[Any], sizes: dict[str, int], num_slices: int) -> "np.ndarray":
    """The devices, shaped like the mesh: neighbours along its last axes are neighbours in the machine."""
    import numpy as np
    from jax.experimental import mesh_utils

    shape, wanted = tuple(sizes.values()), math.prod(sizes.values())
    is_tpu = devices[0].platform == "tpu"
    found = len({getattr(device, "slice_index", 0) for device in devices})
    if is_tpu and wanted == len(devices) and found != num_slices:
        raise ValueError(
            f"mesh.slices={num_slices}, but the {len(devices)} devices are in {found} slices; use "
            f"mesh.slices={found}"
        )
    if not is_tpu or wanted < len(devices):
        # Devices come host by host, so that the outer part of `data` lies across hosts and slices.
        return np.asarray(devices[:wanted]).reshape(shape)
    if num_slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    within = (shape[0] // num_slices, *shape[1:])
    return mesh_utils.create_hybrid_device_mesh(
        within, (num_slices, *(1 for _ in shape[1:])), devices, allow_split_physical_axes=True
    )


def _text(sizes: Mapping[str, int | None]) -> str:
    return " ".join(f"mesh.{axis}={size}" for axis, size in sizes.items() if axis in _USUAL or size != 1)
