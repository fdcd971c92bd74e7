"""Peak arithmetic, memory and wires of the accelerators, from the pages of their makers.

All figures belong to one JAX device. It is a whole chip, except on TPU7x, whose chips are two devices each.
The memory of a TPU is what its compiler lets a program have (libtpu 0.0.42), some percent off its page.
`unchecked` names the figures that no page of the maker, nor a copy of one, could confirm; reports mark them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

GB, GIB = 10**9, 2**30
TPU_PAGES = "https://docs.cloud.google.com/tpu/docs/"
NVIDIA_PAGES = "https://www.nvidia.com/en-us/data-center/"


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One kind of accelerator, as one JAX device sees it."""

    name: str
    platform: str
    """As JAX calls it: "tpu" or "gpu"."""
    kinds: tuple[str, ...]
    """Parts of `jax.Device.device_kind` that name this chip."""
    peak_flops: float
    """Dense bfloat16 FLOP/s."""
    memory_bytes: int
    """What a program may use."""
    memory_bandwidth: float
    """Bytes a second between the device and its own memory."""
    link_bandwidth: float
    """Bytes a second over all fast links (ICI, NVLink), both directions summed."""
    network_bandwidth: float
    """Bytes a second to other slices or hosts (data center network, InfiniBand), one way."""
    link_domain: int | None
    """Devices of a host that the fast links join; None where they join a whole slice."""
    source: str
    unchecked: tuple[str, ...] = ()


def _tpu(name: str, page: str | None = None, devices: int = 1, **figures) -> Chip:
    """A TPU, from the figures that its page gives for a chip of one or two devices, memory apart."""
    for field in ("peak_flops", "memory_bandwidth", "link_bandwidth", "network_bandwidth"):
        figures[field] /= devices
    return Chip(name=name, platform="tpu", link_domain=None, source=TPU_PAGES + (page or name), **figures)


def _gpu(name: str, **figures) -> Chip:
    """A GPU on a board of eight (SXM), with one network card for each."""
    return Chip(
        name=name, platform="gpu", kinds=(name.upper(),), link_domain=8, source=NVIDIA_PAGES + name, **figures
    )


_CHIPS = (
    _tpu(
        "v4",
        kinds=("TPU v4",),
        peak_flops=275e12,
        memory_bytes=int(30.75 * GIB),
        memory_bandwidth=1228 * GB,
        link_bandwidth=600 * GB,  # six links of 50 GB/s each way
        network_bandwidth=50 / 8 * GB,
        unchecked=("memory_bandwidth", "link_bandwidth", "network_bandwidth"),
    ),
    _tpu(
        "v5e",
        kinds=("TPU v5 lite", "TPU v5e"),
        peak_flops=197e12,
        memory_bytes=int(15.75 * GIB),
        memory_bandwidth=819 * GB,
        link_bandwidth=400 * GB,
        network_bandwidth=25 / 8 * GB,  # 6.4 Tb/s for 256 chips
    ),
    _tpu(
        "v5p",
        kinds=("TPU v5p", "TPU v5"),
        peak_flops=459e12,
        memory_bytes=int(95.74 * GIB),
        memory_bandwidth=2765 * GB,
        link_bandwidth=1200 * GB,
        network_bandwidth=50 / 8 * GB,
    ),
    _tpu(
        "v6e",
        kinds=("TPU v6 lite", "TPU v6e", "TPU v6"),
        peak_flops=918e12,
        memory_bytes=int(31.25 * GIB),
        memory_bandwidth=1638 * GB,
        link_bandwidth=800 * GB,
        network_bandwidth=100 / 8 * GB,
    ),
    _tpu(
        "tpu7x",
        devices=2,
        kinds=("TPU7x", "TPU v7x"),
        peak_flops=2307e12,
        memory_bytes=int(94.75 * GIB),
        memory_bandwidth=7380 * GB,
        link_bandwidth=1200 * GB,
        network_bandwidth=100 / 8 * GB,
    ),
    _gpu(
        "a100",
        peak_flops=312e12,
        memory_bytes=80 * GB,
        memory_bandwidth=2039 * GB,
        link_bandwidth=600 * GB,
        network_bandwidth=200 / 8 * GB,
        unchecked=("network_bandwidth",),
    ),
    _gpu(
        "h100",
        peak_flops=989e12,  # 1,979 with sparsity
        memory_bytes=80 * GB,
        memory_bandwidth=3350 * GB,
        link_bandwidth=900 * GB,
        network_bandwidth=400 / 8 * GB,
    ),
    _gpu(
        "h200",
        peak_flops=989e12,
        memory_bytes=141 * GB,
        memory_bandwidth=4800 * GB,
        link_bandwidth=900 * GB,
        network_bandwidth=400 / 8 * GB,
    ),
    _gpu(
        "b200",
        peak_flops=2250e12,
        memory_bytes=180 * GB,
        memory_bandwidth=8000 * GB,
        link_bandwidth=1800 * GB,
        network_bandwidth=400 / 8 * GB,
    ),
)
CHIPS: Mapping[str, Chip] = {chip.name: chip for chip in _CHIPS}


def chip_of_kind(device_kind: str) -> Chip | None:
    """The chip that `jax.Device.device_kind` names; None for a CPU or an unknown accelerator.

    Of several names that fit, the longest counts: "TPU v5 lite" is not a "TPU v5".
    """
    fitting = [(len(kind), chip.name) for chip in _CHIPS for kind in chip.kinds if kind in device_kind]
    return CHIPS[max(fitting)[1]] if fitting else None
