"""`flaxmill doctor`: whether this machine, its packages and its settings are fit to train."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flaxmill.sharding.processes.processor import spare_threads
from flaxmill.train.doctor.cache import check_cache
from flaxmill.train.doctor.devices import (
    Answer,
    ask_probe,
    check_devices,
    check_product,
    check_shares,
    is_usable,
    num_gpus,
    on_cpu_alone,
)
from flaxmill.train.doctor.disk import check_disk
from flaxmill.train.doctor.findings import Finding
from flaxmill.train.doctor.launch_environment import check_launch
from flaxmill.train.doctor.memory import check_memory, check_shared_memory
from flaxmill.train.doctor.requirements import installed_packages
from flaxmill.train.doctor.versions import check_versions
from flaxmill.train.failures import EXIT_DONE, EXIT_FAILURE
from flaxmill.train.overrides import override

DESCRIPTION = (
    "Examines this machine for training: versions, what a launcher says, disks, memory, devices, the cache, "
    "and whether attention keeps documents apart. A line for each finding: ok, remark (something to know of) "
    "or wrong (something will fail or mislead), with what to do. The exit code is 1 where something is wrong."
)
_COLORS = {"remark": "yellow", "wrong": "bold red"}


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """What `flaxmill doctor` takes."""

    json: bool = False
    """Print one JSON object."""


def run(arguments: list[str]) -> int:
    """Print the findings as they come; 1 where something is wrong."""
    parsed = override(DoctorArguments(), arguments, program="flaxmill doctor", description=DESCRIPTION)
    findings = examine()
    found = list(findings) if parsed.json else list(_printed(findings))
    wrong, remarks = (sum(finding.state == state for finding in found) for state in ("wrong", "remark"))
    if parsed.json:
        counts = {"wrong": wrong, "remarks": remarks}
        print(json.dumps(counts | {"findings": [finding._asdict() for finding in found]}))
    else:
        print(f"\n{_summary(wrong, remarks)}")
    return EXIT_FAILURE if wrong else EXIT_DONE


def examine() -> Iterator[Finding]:
    """All checks, those first that need no JAX: should it hang, they have been printed."""
    yield from check_versions(installed_packages())
    yield from check_launch(os.environ)
    yield from check_disk()
    yield from check_memory()
    yield from check_cache()
    answer = ask_probe()
    yield from check_devices(answer)
    yield from check_product(answer)
    if is_usable(answer):
        yield from _with_jax(answer)


def _with_jax(answer: Answer) -> Iterator[Finding]:
    _give_ring_devices(answer)
    from flaxmill.train.doctor.leak_test import check_attention  # it imports JAX, which may not even load

    yield from check_shares(os.environ)
    yield from check_shared_memory(num_gpus(answer))
    yield from check_attention()


def _give_ring_devices(answer: Answer) -> None:
    """Let JAX divide a CPU into two devices, between which keys can go around."""
    if on_cpu_alone(answer) and "JAX_NUM_CPU_DEVICES" not in os.environ:
        os.environ["JAX_NUM_CPU_DEVICES"] = "2"
        spare_threads(os.environ)
    # A run may be using the GPU: take no more of its memory than the small programs need.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _printed(findings: Iterable[Finding]) -> Iterator[Finding]:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        line = Text(f"{finding.state:<7} ", style=_COLORS.get(finding.state, ""))
        line.append(
            f"{finding.check:<9}  {finding.what}" + (f"; {finding.fix}" if finding.fix else ""), "none"
        )
        console.print(line)
        yield finding


def _summary(wrong: int, remarks: int) -> str:
    said = "nothing is wrong" if not wrong else f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong"
    return f"{said}, {remarks} {'remark' if remarks == 1 else 'remarks'}"
