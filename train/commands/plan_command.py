"""`flaxmill plan`: compiles the train step for absent hardware; whether it fits, and what it sends."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from flaxmill.sharding.hardware.topologies import find_topology
from flaxmill.train.experiment import Experiment
from flaxmill.train.failures import EXIT_DONE, EXIT_FAILURE
from flaxmill.train.named_configs import CONFIG_USAGE, DEFAULT_CONFIG, take_config
from flaxmill.train.overrides import INLINE, override
from flaxmill.train.terminal.output_places import file_place, folder_place

if TYPE_CHECKING:
    from flaxmill.sharding.hardware.topologies import Topology
    from flaxmill.train.plan.report import Plan

DESCRIPTION = f"""Compiles the train step of CONFIG (default {DEFAULT_CONFIG}) for the devices of --topology,
which need not be here, and prints the memory of a device, what it sends, and the least time of a step. It
needs no data, no tokenizer and no network. The exit code is 0 where the step fits, 1 where it does not."""

_COMPILED_CANDIDATES = 3
_OF_JAX = ("-cache", "-atime")  # how the files end that JAX keeps beside each other


@dataclass(frozen=True, kw_only=True)
class PlanArguments:
    """What `flaxmill plan` takes."""

    topology: str | None = None
    """The devices: v4, v5e, v5p, v6e or tpu7x with the sizes of a slice, as in v5p:4x4x4; a100, h100, h200 or
    b200 with hosts x GPUs of a host, as in h100:8x8; or cpu:8."""
    slices: int | None = None
    """How many slices of that topology there are; sets mesh.slices."""
    search: bool = False
    """Try meshes, remat policies and accumulation, rank them, and compile the best until three fit."""
    save: str | None = None
    """A directory for the compiled step: `train` reads it as JAX_COMPILATION_CACHE_DIR."""
    html: str | None = None
    """A file for the plan as a page."""
    json: bool = False
    """Print one JSON object."""
    config: Annotated[Experiment, INLINE]


def run(arguments: list[str]) -> int:
    """Compile and print; 0: it fits, 1: it does not.

    Raises:
      ValueError: the user's mistake.
    """
    named, rest = take_config(arguments)
    parsed = override(
        PlanArguments(config=named),
        rest,
        program="flaxmill plan",
        usage=CONFIG_USAGE,
        description=DESCRIPTION,
    )
    if parsed.topology is None:
        raise ValueError("--topology is not given; name the devices to plan for, as in --topology v5p:4x4x4")
    if parsed.config.epochs is not None:
        raise ValueError(
            f"epochs={parsed.config.epochs:g} are as many steps as the data say, which a plan does not read; "
            "give --steps, which `flaxmill train --dry-run` prints"
        )
    page = file_place(parsed.html, "html", "plan.html") if parsed.html else None
    directory = _programs_place(parsed.save) if parsed.save else None
    slices = parsed.config.mesh.slices if parsed.slices is None else parsed.slices
    topology = find_topology(parsed.topology, slices)
    if parsed.search and topology.chip is None:
        raise ValueError(
            f"--search ranks by the speed of a chip, and {parsed.topology} has none; leave it out"
        )
    mesh = dataclasses.replace(parsed.config.mesh, slices=topology.num_slices)
    plan = _plan(dataclasses.replace(parsed.config, mesh=mesh), topology, parsed.search, directory)
    _print(plan, as_json=parsed.json)
    if page is not None:
        _write_page(page, plan)
    if directory is not None:
        print(f"The compiled step is in {directory}: JAX_COMPILATION_CACHE_DIR={directory}", file=sys.stderr)
    return EXIT_DONE if plan.memory.fits else EXIT_FAILURE


def _programs_place(text: str) -> Path:
    directory = folder_place(text, "save")
    found = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    strange = [name for name in found if not name.endswith(_OF_JAX) and not name.startswith((".", "xla_"))]
    if strange:
        raise ValueError(
            f"save={text} holds {strange[0]}, which is no compiled program; name a directory for them alone"
        )
    return directory


def _plan(experiment: Experiment, topology: "Topology", search: bool, directory: Path | None) -> "Plan":
    """The plan, with what would make it fit or what would be faster, each compiled where that is asked."""
    from flaxmill.train.caches import keep_programs
    from flaxmill.train.plan.compiled_plans import compile_best, make_compiled_plan, with_checked_proposal

    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        keep_programs(directory.absolute())
    plan = make_compiled_plan(experiment, topology)
    if search:
        return compile_best(plan, experiment, topology, _COMPILED_CANDIDATES)
    return plan if plan.memory.fits else with_checked_proposal(plan, experiment, topology)


def _print(plan: "Plan", as_json: bool) -> None:
    import json

    from flaxmill.train.plan.json_report import json_of
    from flaxmill.train.plan.report import text_of

    print(json.dumps(json_of(plan)) if as_json else text_of(plan), end="\n" if as_json else "")


def _write_page(page: Path, plan: "Plan") -> None:
    from flaxmill.train.plan.html_report import page_of

    page.write_text(page_of(plan), encoding="utf-8")
    print(f"wrote {page}", file=sys.stderr)
