"""The device mesh: how many devices each kind of parallelism gets."""

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax.sharding import Mesh


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis; at most one axis may be None: it takes the remaining devices."""

    data: int | None = None
    """Copies of the weights; each reads its own rows."""
    fsdp: int | None = 1
    """Shards of weights and optimizer state, gathered layer by layer; also splits the rows."""
    tensor: int | None = 1
    """Shards of heads, MLP and vocabulary within a layer."""

    def __post_init__(self) -> None:
        sizes = axis_sizes(self)
        for axis, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"mesh.{axis}={size} must be at least 1, or None for the remaining devices")
        free = [axis for axis, size in sizes.items() if size is None]
        if len(free) > 1:
            raise ValueError(
                f"mesh.{' and mesh.'.join(free)} are None; only one axis can take the remaining devices"
            )


def axis_sizes(config: MeshConfig) -> dict[str, int | None]:
    """The config as {axis: size}, in mesh order."""
    return {field.name: getattr(config, field.name) for field in fields(config)}


def make_mesh(config: MeshConfig) -> "Mesh":
    """Lay the devices out as a mesh.

    A mesh smaller than the machine uses its first devices, on one process only.

    Raises:
      ValueError: the mesh asks for more devices than there are, or does not divide them.
    """
    import jax  # here, so that no config file waits for it

    devices = jax.devices()
    sizes = _fill_free_axis(config, len(devices))
    wanted = math.prod(sizes.values())
    if wanted < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"{_text(sizes)} uses {wanted} of {len(devices)} devices; with {jax.process_count()} processes "
            "every device must be used: leave one axis None"
        )
    auto = (jax.sharding.AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=auto, devices=devices[:wanted])


def _fill_free_axis(config: MeshConfig, num_devices: int) -> dict[str, int]:
    sizes = axis_sizes(config)
    fixed = math.prod(size for size in sizes.values() if size is not None)
    if fixed > num_devices:
        raise ValueError(
            f"{_text(sizes)} asks for {fixed} devices but there are {num_devices}; "
            "lower an axis, or set JAX_NUM_CPU_DEVICES to simulate more on a CPU"
        )
    if None in sizes.values() and num_devices % fixed:
        raise ValueError(
            f"{_text(sizes)}: {num_devices} devices do not divide by {fixed}; change the axes that are set"
        )
    return {axis: num_devices // fixed if size is None else size for axis, size in sizes.items()}


def _text(sizes: dict[str, int | None] | dict[str, int]) -> str:
    return " ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
