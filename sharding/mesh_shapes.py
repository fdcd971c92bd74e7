"""Meshes of so many devices that may serve, by which axes belong on which wires."""

import itertools
import math
from collections.abc import Iterator, Mapping

MOST_TENSOR = 16


def mesh_shapes(
    num_devices: int, num_slices: int, near: int, num_experts: int | None
) -> Iterator[dict[str, int]]:
    """Sizes of all axes, in mesh order, that use all devices.

    Activations stay on the fast links: `expert`, `context` and `tensor` divide the devices that share them.
    Stages send little and wait for each other: a pipeline reaches beyond the fast links, or has no use.

    Args:
      near: devices that fast links join.
    """
    sizes = _divisors(num_devices)
    for expert, context, tensor in itertools.product(_divisors(num_experts or 1), sizes, sizes):
        inner = expert * context * tensor
        if tensor > MOST_TENSOR or near % inner or num_devices % inner:
            continue
        for stage in _divisors(num_devices // inner):
            for fsdp in _divisors(num_devices // inner // stage):
                data = num_devices // inner // stage // fsdp
                if data % num_slices == 0 and (stage == 1 or stage * fsdp * inner > near):
                    outer = {"data": data, "stage": stage, "fsdp": fsdp}
                    yield outer | {"expert": expert, "context": context, "tensor": tensor}


def shares_in_vain(batch_size: int, accumulate: int, mesh: Mapping[str, int]) -> bool:
    """Whether rows do not divide over the mesh, or devices share rows that could have some of their own: as
    many tokens for each, and nothing to send."""
    groups = math.prod(mesh[axis] for axis in ("data", "stage", "fsdp", "expert"))
    num_rows, rest = divmod(batch_size, accumulate * groups)
    return rest > 0 or math.gcd(num_rows, mesh["context"]) > 1


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
