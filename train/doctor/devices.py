"""What JAX computes on, what it leaves unused, and how fast that multiplies."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flaxmill.sharding.hardware.chips import GIB
from flaxmill.train.doctor.findings import Finding, with_fix
from flaxmill.train.metrics.flops import peak_flops

DEVICES, PRODUCT = "devices", "product"

FAR_BELOW, VERY_FAR_BELOW = 0.5, 0.2
"""Shares of the published peak. A product of this size reaches 0.73 of it on an H200 (docs/benchmarks.md)."""
_PROBE = "flaxmill.train.doctor.device_probe"
_SECONDS = 120
_NVIDIA = "0x10de"
_STAMP = re.compile(r"^[FEWI]\d{4} [\d:.]+ +\d+ \S+\] ")  # time and source line of XLA's messages


class Answer(NamedTuple):
    """What the process said that started JAX.

    Attributes:
      said: its JSON object; None: it ended without a word.
      code: its exit code, below 0 the signal that ended it; None: it did not end in time.
      last_line: of its stderr.
    """

    said: Mapping[str, Any] | None
    code: int | None
    last_line: str


def ask_probe(seconds: float = _SECONDS) -> Answer:
    """Start JAX in a process of its own, which takes no more of a GPU's memory than it needs."""
    env = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
    command = [sys.executable, "-P", "-m", _PROBE]  # -P: no file of the current directory is imported
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return Answer(None, None, "")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    try:
        said = json.loads(done.stdout.splitlines()[-1]) if done.stdout else None
    except ValueError:
        said = None
    return Answer(said, done.returncode, _STAMP.sub("", lines[-1].strip()) if lines else "")


def is_usable(answer: Answer) -> bool:
    """Whether JAX starts here."""
    return answer.said is not None and "devices" in answer.said


def on_cpu_alone(answer: Answer) -> bool:
    """Whether JAX has no accelerator here."""
    return answer.said is not None and all(one["platform"] == "cpu" for one in answer.said["devices"])


def num_gpus(answer: Answer) -> int:
    """How many GPUs JAX has here."""
    return sum(one["platform"] == "gpu" for one in answer.said["devices"]) if answer.said else 0


def check_devices(answer: Answer, root: Path = Path("/")) -> Iterator[Finding]:
    """Judge an answer.

    Args:
      root: where /dev and /sys are.
    """
    if not is_usable(answer):
        yield _no_start(answer)
        yield from _unused_gpus(root, jax_starts=False)
        return
    assert answer.said is not None
    devices = answer.said["devices"]
    yield Finding(DEVICES, "ok", describe_devices(devices))
    if on_cpu_alone(answer):
        unused = [*_unused_gpus(root, jax_starts=True), *_unused_tpus(answer.said["tpu_chips"])]
        yield from unused
        if not unused:
            cores = os.cpu_count() or 1
            what = f"no accelerator: {cores} CPU cores train small models alone"
            yield Finding(DEVICES, "remark", what, "`flaxmill plan` says what a model needs")


def describe_devices(devices: list[Mapping[str, Any]]) -> str:
    """`gpu: 8 x NVIDIA H100 80GB HBM3, 79.1 GiB each`."""
    parts = []
    counted = Counter((device["platform"], device["kind"], device["bytes"]) for device in devices)
    for (platform, kind, num_bytes), number in counted.items():
        memory = f", {num_bytes / GIB:.1f} GiB{' each' if number > 1 else ''}" if num_bytes else ""
        parts.append(f"{platform}: {number} x {kind}{memory}")
    return "; ".join(parts)


def _no_start(answer: Answer) -> Finding:
    if answer.said is not None:
        return with_fix(DEVICES, "wrong", answer.said["refusal"])
    if answer.code is None:
        what = f"JAX did not start within {_SECONDS} s"
        fix = "end the process that holds the device; on a TPU pod run this on all hosts at once"
        return Finding(DEVICES, "wrong", what, fix)
    ended = signal.Signals(-answer.code).name if answer.code < 0 else f"exit code {answer.code}"
    what = f"JAX ends the process ({ended}): {answer.last_line or 'it says nothing'}"
    flags = [f"{name}={os.environ[name]}" for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS") if name in os.environ]
    fix = f"correct or unset {' '.join(flags)}" if flags else "install jax, jaxlib and its plugins again"
    return Finding(DEVICES, "wrong", what, fix)


def _unused_gpus(root: Path, *, jax_starts: bool) -> Iterator[Finding]:
    """NVIDIA's devices, by the files of their driver, its program or their numbers on the PCI bus."""
    files = sorted(path.name for path in (root / "dev").glob("nvidia[0-9]*"))
    has_driver = bool(files) or (root / "dev/dxg").exists() or shutil.which("nvidia-smi") is not None
    told = os.environ.get("JAX_PLATFORMS")
    if not has_driver:
        if cards := _nvidia_cards(root):
            what = f"NVIDIA cards on the PCI bus: {cards}, and no driver's files in /dev"
            fix = "install the driver, or start the container with --gpus all"
            yield Finding(DEVICES, "remark", what, fix)
        return
    names = f"an NVIDIA driver is here ({', '.join(files) or 'nvidia-smi'}), and JAX uses no GPU"
    if told and "cuda" not in told and "gpu" not in told:
        yield Finding(DEVICES, "remark", f"{names}: JAX_PLATFORMS={told}", "unset JAX_PLATFORMS")
    elif not _has_cuda_plugin():
        yield Finding(DEVICES, "wrong", names, "pip install 'flaxmill[cuda]'")
    elif jax_starts:
        fix = "run nvidia-smi; JAX_PLATFORMS=cuda python -c 'import jax; jax.devices()' says why"
        yield Finding(DEVICES, "wrong", f"{names} though its plugin is installed", fix)


def _has_cuda_plugin() -> bool:
    from importlib.metadata import entry_points

    return any("cuda" in plugin.name for plugin in entry_points(group="jax_plugins"))


def _nvidia_cards(root: Path) -> int:
    """Display and 3D controllers of NVIDIA (PCI class 03)."""
    found = 0
    for vendor in (root / "sys/bus/pci/devices").glob("*/vendor"):
        try:
            is_card = (vendor.parent / "class").read_text().startswith("0x03")
            found += is_card and vendor.read_text().strip() == _NVIDIA
        except OSError:
            continue
    return found


def _unused_tpus(num_chips: int) -> Iterator[Finding]:
    if num_chips:
        told = os.environ.get("JAX_PLATFORMS")
        what = f"{num_chips} TPU chips are here, and JAX uses the CPU"
        if told:
            yield Finding(DEVICES, "remark", f"{what}: JAX_PLATFORMS={told}", "unset JAX_PLATFORMS")
        else:
            yield Finding(DEVICES, "wrong", what, "pip install 'flaxmill[tpu]'")


def check_product(answer: Answer) -> Iterator[Finding]:
    """The measured speed beside the published peak, if there is one."""
    if not is_usable(answer):
        return
    assert answer.said is not None
    product, kind = answer.said["product"], answer.said["devices"][0]["kind"]
    flops, size = product["flops"], product["size"]
    said = f"{product['dtype']} {size} x {size}: {_rate(flops)}"
    peak = peak_flops([kind])
    if peak is None:
        yield Finding(PRODUCT, "ok", f"{said} (no published peak is known for {kind})")
        return
    share = flops / peak
    what = f"{said}, {share:.0%} of the published {peak / 1e12:.4g} of {kind}"
    if share >= FAR_BELOW:
        yield Finding(PRODUCT, "ok", what)
    else:
        fix = "see whether another process computes on it, or heat or a power limit slows it (nvidia-smi -q)"
        yield Finding(PRODUCT, "remark" if share >= VERY_FAR_BELOW else "wrong", what, fix)


def _rate(flops: float) -> str:
    return f"{flops / 1e12:.3g} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:.3g} GFLOP/s"


def check_shares(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the GPUs of this machine divide over the job's processes on it."""
    from flaxmill.sharding.processes.coordination import count_gpus, find_launch, share_of_gpus

    try:
        launch = find_launch(environ)
    except ValueError:
        return  # the check of the launch says it
    if launch is None:
        return
    try:
        share = share_of_gpus(launch, environ, count_gpus())
    except ValueError as error:
        yield with_fix(DEVICES, "wrong", str(error))
    else:
        if share:
            yield Finding(DEVICES, "ok", f"this process would take GPUs {', '.join(map(str, share))}")
