"""What XLA must know of a GPU that is absent: its GpuTargetConfig, as protocol buffer text.

The figures of an architecture are those of the table "Technical Specifications per Compute Capability" in the
CUDA C++ Programming Guide; the figures of a product are those of NVIDIA's data sheets and white papers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from flaxmill.sharding.hardware.chips import Chip

KIB, MIB = 2**10, 2**20


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One compute capability."""

    major: int
    shared_memory: int
    """Bytes of shared memory of a multiprocessor, of which a block may have all but one KiB."""
    float32_units: int
    """Additions in float32 that a multiprocessor begins each clock."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """What the chips table lacks of one GPU."""

    architecture: Architecture
    name: str
    multiprocessors: int
    level_2_cache: int
    clock_ghz: float
    unchecked: tuple[str, ...] = ()
    """Figures that no page of the maker could confirm."""


_AMPERE = Architecture(major=8, shared_memory=164 * KIB, float32_units=64)
_HOPPER = Architecture(major=9, shared_memory=228 * KIB, float32_units=128)
_BLACKWELL = Architecture(major=10, shared_memory=228 * KIB, float32_units=128)

PRODUCTS: Mapping[str, Product] = {
    # NVIDIA A100 Tensor Core GPU Architecture, table 4.
    "a100": Product(
        architecture=_AMPERE,
        name="NVIDIA A100-SXM4-80GB",
        multiprocessors=108,
        level_2_cache=40 * MIB,
        clock_ghz=1.41,
    ),
    # NVIDIA H100 Tensor Core GPU Architecture, table 3; it gives no clock.
    "h100": Product(
        architecture=_HOPPER,
        name="NVIDIA H100 80GB HBM3",
        multiprocessors=132,
        level_2_cache=50 * MIB,
        clock_ghz=1.98,
        unchecked=("clock_ghz",),
    ),
    # The H200 is an H100 with more and faster memory.
    "h200": Product(
        architecture=_HOPPER,
        name="NVIDIA H200",
        multiprocessors=132,
        level_2_cache=50 * MIB,
        clock_ghz=1.98,
        unchecked=("clock_ghz",),
    ),
    "b200": Product(
        architecture=_BLACKWELL,
        name="NVIDIA B200",
        multiprocessors=148,
        level_2_cache=126 * MIB,
        clock_ghz=1.965,
        unchecked=("multiprocessors", "level_2_cache", "clock_ghz"),
    ),
}


def target_config(chip: Chip) -> str:
    """The text that `get_topology_desc(platform="cuda", target_config=...)` takes."""
    product = PRODUCTS[chip.name]
    fields = _PROGRAMMING_LIMITS | {
        "name": f'"{product.name}"',
        "device_memory_size": chip.memory_bytes,
        "memory_bandwidth": int(chip.memory_bandwidth),
        "core_count": product.multiprocessors,
        "l2_cache_size": product.level_2_cache,
        "clock_rate_ghz": product.clock_ghz,
        "fpus_per_core": product.architecture.float32_units,
        "shared_memory_per_core": product.architecture.shared_memory,
        "shared_memory_per_block_optin": product.architecture.shared_memory - KIB,
    }
    lines = [f"  {name}: {value}" for name, value in fields.items()]
    capability = f"  cuda_compute_capability {{ major: {product.architecture.major} minor: 0 }}"
    return "\n".join(
        [
            "gpu_device_info {",
            *lines,
            capability,
            "}",
            'platform_name: "CUDA"',
            f'device_description_str: "{product.name}"',
        ]
    )


_PROGRAMMING_LIMITS = {  # the same for compute capabilities 8.0, 9.0 and 10.0
    "threads_per_warp": 32,
    "threads_per_block_limit": 1024,
    "threads_per_core_limit": 2048,
    "thread_dim_limit_x": 1024,
    "thread_dim_limit_y": 1024,
    "thread_dim_limit_z": 64,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 2**16 - 1,
    "block_dim_limit_z": 2**16 - 1,
    "registers_per_core_limit": 64 * KIB,
    "registers_per_block_limit": 64 * KIB,
    "shared_memory_per_block": 48 * KIB,
}
