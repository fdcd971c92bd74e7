"""Absent devices by name: `v5p:4x4x4`, `h100:8x8` (hosts x GPUs of a host), or `cpu:8`, which are simulated.

Only the compilers of absent devices are here: a program for them can be compiled and read, and not run.
"""

import contextlib
import difflib
import importlib.metadata
import importlib.util
import math
import os
import re
import sys
from typing import Any, NamedTuple

from flaxmill.sharding.hardware.chips import CHIPS, Chip
from flaxmill.sharding.hardware.gpu_targets import target_config

INSTALL = "pip install 'flaxmill[plan]'"
_EXAMPLES = "v5p:4x4x4, h100:8x8 (hosts x GPUs of a host) or cpu:8"
# Read by libtpu when it is loaded: several planners may run at once, it asks no metadata server what machine
# this is, and it does not complain that the machine is none.
_QUIET_LIBTPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class _Torus(NamedTuple):
    """How the chips of a kind of TPU may be joined."""

    dims: int
    most_chips: int
    """Chips of the largest slice."""


# The largest slices, from the pages that the chips table names.
_TORUS = {
    "v4": _Torus(3, 4096),
    "v5e": _Torus(2, 256),
    "v5p": _Torus(3, 8960),
    "v6e": _Torus(2, 256),
    "tpu7x": _Torus(3, 9216),
}


# The two cores of a v4 chip run as one device, as they do on Google's machines unless asked otherwise; the
# compiler alone takes them for two. The two of a TPU7x chip are always two devices.
_CHIP_OPTIONS = {"v4": {"chip_config_name": "megacore"}}


class Topology(NamedTuple):
    """Devices to compile for, which need not be here."""

    name: str
    chip: Chip | None
    """None for a CPU."""
    devices: list[Any]
    """Of jax.Device, or compile-only devices like it."""
    num_slices: int
    description: str
    """How many devices there are, and how they are joined, in words."""
    link_domain: int
    """How many devices, next to each other, share fast links: those of a slice, or of a host of GPUs."""

    @property
    def devices_a_host(self) -> int:
        return len(self.devices) // len({device.process_index for device in self.devices})


class _Asked(NamedTuple):
    """A topology's name, read."""

    kind: str
    sizes: tuple[int, ...]


def find_topology(name: str, num_slices: int = 1) -> Topology:
    """The devices of a topology; with slices, as many devices in each.

    Call it before JAX has been used: the number of simulated CPU devices cannot be changed later.

    Raises:
      ValueError: an unknown name, sizes that the chip does not come in, or a compiler that is not installed
        or is of another version than JAX wants.
    """
    asked = _read(name)
    if num_slices < 1:
        raise ValueError(f"slices={num_slices} must be at least 1")
    _check_sizes(name, asked)
    _prepare_environment()
    if asked.kind == "cpu":
        return _cpu_topology(name, asked.sizes[0], num_slices)
    if CHIPS[asked.kind].platform == "gpu":
        return _gpu_topology(name, asked, num_slices)
    return _tpu_topology(name, asked, num_slices)


def _prepare_environment() -> None:
    """Set what JAX and its compilers read when they start; it is too late for what has started."""
    if "jax" not in sys.modules:
        os.environ["JAX_PLATFORMS"] = "cpu"  # nothing is computed on this machine's accelerators
    for variable, value in _QUIET_LIBTPU.items():
        os.environ.setdefault(variable, value)


def _read(name: str) -> _Asked:
    kind, _, text = name.partition(":")
    known = [*CHIPS, "cpu"]
    if kind not in known:
        close = difflib.get_close_matches(kind.lower(), known, n=1, cutoff=0.5)
        question = f"did you mean {close[0]}:{_fitting_size(close[0], text)}? " if close else ""
        raise ValueError(
            f"topology={name}: {kind!r} is no chip that is known; {question}use one of {', '.join(known)}, "
            f"as in {_EXAMPLES}"
        )
    if not re.fullmatch(r"[1-9][0-9]{0,4}(x[1-9][0-9]{0,4})*", text):
        raise ValueError(f"topology={name}: {text!r} is not a size such as {_example_size(kind)}")
    return _Asked(kind, tuple(map(int, text.split("x"))))


def _check_sizes(name: str, asked: _Asked) -> None:
    dims, what = _dims(asked.kind)
    if len(asked.sizes) != dims:
        raise ValueError(
            f"topology={name}: {asked.kind} takes {what}, as in {asked.kind}:{_example_size(asked.kind)}"
        )
    if asked.kind not in _TORUS:
        return
    num_chips, most = math.prod(asked.sizes), _TORUS[asked.kind].most_chips
    # A host has 2 x 2 chips; single chips can be had too.
    if num_chips > 1 and any(size % 2 for size in asked.sizes[:2]):
        raise ValueError(
            f"topology={name}: a host has 2 x 2 chips, so that the first two sizes are even; use one such as "
            f"{asked.kind}:{_example_size(asked.kind)}"
        )
    if num_chips > most:
        raise ValueError(
            f"topology={name} has {num_chips:,} chips, and a slice of {asked.kind} at most {most:,}; use a "
            "smaller one, and --slices for more of them"
        )


def _dims(kind: str) -> tuple[int, str]:
    if kind == "cpu":
        return 1, "a number of devices"
    if kind not in _TORUS:
        return 2, "hosts x GPUs of a host"
    dims = _TORUS[kind].dims
    return dims, f"the {dims} sizes of a slice"


def _example_size(kind: str) -> str:
    if kind == "cpu":
        return "8"
    return {3: "4x4x4", 2: "4x4"}[_TORUS[kind].dims] if kind in _TORUS else "1x8"


def _fitting_size(kind: str, text: str) -> str:
    """The size if this kind of chip comes in as many dimensions, or an example."""
    return text if len(text.split("x")) == _dims(kind)[0] and text else _example_size(kind)


def _cpu_topology(name: str, num_devices: int, num_slices: int) -> Topology:
    import jax

    total = num_devices * num_slices
    if total > jax.config.jax_num_cpu_devices:  # type: ignore[attr-defined]
        with contextlib.suppress(RuntimeError):  # JAX has started
            jax.config.update("jax_num_cpu_devices", total)
    devices = jax.devices("cpu")
    if len(devices) < total:
        raise ValueError(
            f"topology={name} with slices={num_slices} needs {total} devices, and JAX has started with "
            f"{len(devices)}; set JAX_NUM_CPU_DEVICES={total} before"
        )
    words = _in_slices(f"{_count(num_devices, 'CPU device')}", num_slices)
    return Topology(name, None, devices[:total], num_slices, words, num_devices)


def _gpu_topology(name: str, asked: _Asked, num_slices: int) -> Topology:
    for module in ("jax_cuda13_plugin", "jax_cuda12_plugin"):
        if importlib.util.find_spec(module):
            break
    else:
        raise ValueError(f"topology={name} needs the GPU compiler, which is not installed; {INSTALL}")
    hosts, gpus = asked.sizes
    chip = CHIPS[asked.kind]
    devices = _absent_devices(
        name,
        platform="cuda",
        topology=f"{num_slices}x{hosts}x{gpus}",
        target_config=target_config(chip),
    )
    words = f"{_count(hosts, 'host')} of {gpus} {chip.name.upper()}"
    return Topology(name, chip, devices, num_slices, _in_slices(words, num_slices), gpus)


def _tpu_topology(name: str, asked: _Asked, num_slices: int) -> Topology:
    _check_libtpu(name)
    chip = CHIPS[asked.kind]
    single = {"chips_per_host_bounds": (1, 1, 1)} if math.prod(asked.sizes) == 1 else {}
    slices = {"num_slices": num_slices} if num_slices > 1 else {}
    options = single | slices | _CHIP_OPTIONS.get(asked.kind, {})
    devices = _absent_devices(name, platform="tpu", topology_name=name, **options)
    num_chips, num_devices = math.prod(asked.sizes), len(devices) // num_slices
    hosts = len({device.process_index for device in devices}) // num_slices
    words = f"{_count(num_chips, 'chip')} {chip.name} on {_count(hosts, 'host')}"
    words += f", {num_devices // num_chips} devices a chip" if num_devices > num_chips else ""
    return Topology(name, chip, devices, num_slices, _in_slices(words, num_slices), num_devices)


def _check_libtpu(name: str) -> None:
    """Refuse a libtpu that is absent, or of another version than this JAX: it would fail in odd places."""
    wanted = _wanted_libtpu()
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"topology={name} needs the TPU compiler, libtpu, which is not installed; {INSTALL}")
    found = importlib.metadata.version("libtpu")
    if wanted is not None and not _is_version(found, wanted):
        raise ValueError(
            f"libtpu=={found} is installed, and jax=={importlib.metadata.version('jax')} needs "
            f"libtpu=={wanted}; pip install 'libtpu=={wanted}'"
        )


def _wanted_libtpu() -> str | None:
    """The version of libtpu that the installed JAX names as its own, such as 0.0.42.*."""
    for requirement in importlib.metadata.requires("jax") or ():
        if found := re.match(r"libtpu\s*==\s*([\w.*]+)", requirement):
            return found[1]
    return None


def _is_version(found: str, wanted: str) -> bool:
    stem = wanted.removesuffix(".*")
    return found == stem or (wanted != stem and found.startswith(f"{stem}."))


def _absent_devices(name: str, **arguments: Any) -> list[Any]:
    import jax
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(**arguments).devices)
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"topology={name} is refused by its compiler: {reason}") from None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _in_slices(words: str, num_slices: int) -> str:
    return words if num_slices == 1 else f"{num_slices} slices, each {words}"
