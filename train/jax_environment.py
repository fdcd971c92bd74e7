"""What JAX is told of the machine: which devices it may have, and how exact float32 is; and its refusals of
the environment, explained."""

import importlib.metadata
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_ADVICE = re.compile(
    r" \(set JAX_PLATFORMS=.*", re.DOTALL
)  # JAX's own advice, which does not suit other refusals


# What the drivers of the accelerators make: NVIDIA's, on Jetson and in Windows' Linux too, and Google's.
_DEVICE_FILES = ("nvidia*", "nvhost*", "nvmap", "dxg", "accel*", "vfio/[0-9]*")
_COMPILERS = ("libtpu", "jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
_PLUGINS = {"xla_cuda12", "xla_cuda13"}


def choose_platform(devices: Path = Path("/dev")) -> None:
    """Let JAX use the CPU alone on a machine without accelerators that has compilers for them.

    The compilers come with `flaxmill[plan]`; JAX would load them, look for their devices at every start, and
    print how it failed. JAX_PLATFORMS in the environment has precedence, and any other JAX plugin does.
    Call it before JAX is imported.
    """
    if "JAX_PLATFORMS" not in os.environ and "jax" not in sys.modules and has_compilers_alone(devices):
        os.environ["JAX_PLATFORMS"] = "cpu"


def has_compilers_alone(devices: Path = Path("/dev")) -> bool:
    """Whether compilers for accelerators are installed on a machine that has none."""
    if not sys.platform.startswith("linux"):
        return False
    plugins = {plugin.name for plugin in importlib.metadata.entry_points(group="jax_plugins")}
    return plugins <= _PLUGINS and _has_compilers(_COMPILERS) and not _has_accelerator(devices)


def computes_on_cpu(devices: Path = Path("/dev")) -> bool:
    """Whether JAX will compute on the CPU, as far as it can be told before JAX is imported."""
    told = os.environ.get("JAX_PLATFORMS")
    return told == "cpu" if told else not _has_accelerator(devices)


def count_cpu_devices() -> int | None:
    """The devices that JAX will have, where it will surely have the CPU's alone; None: only JAX can tell, or
    it refuses what the environment says."""
    told = os.environ.get("JAX_NUM_CPU_DEVICES", "1")
    by_flag = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    is_cpu = os.environ.get("JAX_PLATFORMS") == "cpu"
    return int(told) or None if is_cpu and told.isdecimal() and not by_flag else None


def _has_compilers(names: Iterable[str]) -> bool:
    for name in names:
        try:
            if importlib.util.find_spec(name) is not None:
                return True
        except ModuleNotFoundError:  # the package that it would be in is absent
            continue
    return False


def _has_accelerator(devices: Path) -> bool:
    return any(True for pattern in _DEVICE_FILES for _ in devices.glob(pattern))


def set_float32_products(dtype: str) -> None:
    """Have accelerators compute float32 products in float32 where that is the compute dtype.

    Left alone, GPUs round the factors to TF32 (an error of 3e-4 instead of 1e-7) and TPUs to bfloat16. CPUs
    always compute in full. Other dtypes need nothing, and some kernels for bfloat16 refuse the setting.
    JAX_DEFAULT_MATMUL_PRECISION in the environment has precedence.
    """
    import jax  # explaining does not need it

    if jax.default_backend() == "cpu" or "JAX_DEFAULT_MATMUL_PRECISION" in os.environ:
        return
    jax.config.update("jax_default_matmul_precision", product_precision(dtype))


def product_precision(dtype: str) -> str | None:
    """The precision of products on accelerators, as `jax.default_matmul_precision` takes it."""
    return "highest" if dtype == "float32" else None


class Refusal(NamedTuple):
    """A line, and whether it tells of a mistake in what was given, or of something that may pass."""

    text: str
    is_mistake: bool


def explain(error: BaseException) -> Refusal | None:
    """Why JAX found no devices, or could not read a variable's value; None: the error is another one."""
    frames = list(traceback.walk_tb(error.__traceback__))
    raised_in = frames[-1][0].f_globals.get("__name__", "") if frames else ""
    if raised_in == "jax._src.xla_bridge" and isinstance(error, RuntimeError | AssertionError):
        return _explain_devices(error)
    if raised_in == "jax._src.config" and isinstance(error, ValueError):
        return _explain_value(str(error))
    return None


def _explain_devices(error: BaseException) -> Refusal:
    reason = _ADVICE.sub("", " ".join(str(error).split())).rstrip(".") or "no such device is here"
    for name, is_bad in (("JAX_NUM_CPU_DEVICES", lambda text: int(text) < 1), ("JAX_PLATFORMS", bool)):
        value = os.environ.get(name, "")
        if value and is_bad(value):
            is_mistake = "in use" not in reason
            return Refusal(f"{name}={value} gives JAX no device: {reason}; {_FIXES[name]}", is_mistake)
    return Refusal(f"JAX finds no device: {reason}; JAX_PLATFORMS=cpu computes without one", False)


def _explain_value(text: str) -> Refusal | None:
    # `Invalid value "abc" for JAX flag jax_num_cpu_devices`, or `... for environment 'JAX_ENABLE_X64'`.
    name = text.split()[-1].strip("'\"").upper() if text else ""
    if name not in os.environ:
        return None
    return Refusal(f"{name}={os.environ[name]} is not a value that JAX knows; correct it, or unset it", True)


_FIXES = {
    "JAX_NUM_CPU_DEVICES": "set it to 1 or more, or unset it",
    "JAX_PLATFORMS": "unset it, or name what this machine has, such as JAX_PLATFORMS=cpu",
}
