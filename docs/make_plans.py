"""Runs `flaxmill plan` for published models on large machines and writes docs/plans.md.

    python docs/make_plans.py            # all of them: much of an hour on two cores
    python docs/make_plans.py llama3_8b  # those of one experiment or title; the other sections stay

The script needs the extra `plan`, and no accelerator.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxmill.model.layer_plan import plan_layers
from flaxmill.sharding.mesh import describe_shape
from flaxmill.sharding.schedule import Pipeline
from flaxmill.train.compilation.collectives import Collective
from flaxmill.train.named_configs import load_config
from flaxmill.train.plan.cost import published_runs
from flaxmill.train.plan.report import GIB, KINDS, MIB, merge_collectives
from flaxmill.train.run.mesh_fit import describe_schedule

PAGE = Path(__file__).parent / "plans.md"
MAIN = "from flaxmill.train.command_line import main; main()"
HEADING = "\n## "


class Case(NamedTuple):
    """An experiment on a topology, with the flags that make it fit and fast."""

    experiment: str
    topology: str
    flags: str = ""
    rows: str = ""
    """What is special about its rows."""

    @property
    def title(self) -> str:
        return f"{self.experiment} on {self.topology}{self.rows and ', '}{self.rows}"

    @property
    def command(self) -> str:
        return f"plan {self.experiment} --topology {self.topology} {self.flags}".strip()


CASES = (
    Case("gpt2_124m", "v5e:2x2", "--accumulate 4"),
    Case("bert_large", "v5e:4x4"),
    Case("llama3_8b", "v5p:4x4x4"),
    Case("llama3_8b", "h100:8x8", "--mesh.data 8 --mesh.fsdp 8 --accumulate 8"),
    Case(
        "llama3_8b",
        "v5p:4x4x4",
        "--data.sequence-length 131072 --model.max-positions 131072 --mesh.data 1 --mesh.fsdp 8 "
        "--mesh.context 8 --batch-size 8",
        "rows of 131,072 tokens",
    ),
    Case("mixtral_8x7b", "v5p:4x4x8", "--mesh.expert 8"),
    Case("llama3_70b", "v5p:8x8x8", "--accumulate 2"),
    Case("llama3_70b", "v6e:16x16", "--mesh.data 2 --mesh.fsdp 32 --mesh.tensor 4 --accumulate 16"),
    Case(
        "llama3_70b",
        "h100:32x8",
        "--mesh.data 1 --mesh.stage 4 --mesh.fsdp 8 --mesh.tensor 8 --mesh.sequence-parallel --accumulate 4 "
        "--pipeline-microbatches 32",
        "a pipeline of four stages",
    ),
    Case("llama31_405b", "v5p:16x16x16", "--slices 4 --mesh.data 64 --mesh.fsdp 32 --mesh.tensor 8"),
)
INTRODUCTION = """# Plans of published models

What `flaxmill plan` says of models on machines that were not there when this page was written
(`python docs/make_plans.py`). The compilers are the real ones; [Plan](plan.md) explains the numbers, and
which of them are estimates. The least time of a step is a ceiling: {shares}.
"""


def main() -> None:
    asked = sys.argv[1:]
    unknown = set(asked) - {name for case in CASES for name in (case.experiment, case.title)}
    if unknown:
        sys.exit(f"{', '.join(sorted(unknown))}: no plan is made of it; use one of the names in CASES")
    sections = _read_sections()
    for case in CASES:
        if not asked or {case.experiment, case.title} & {*asked}:
            sections[case.title] = _section(case, _run(case))
            _write(sections)
            print(f"wrote {case.title}", flush=True)


def _run(case: Case) -> dict[str, Any]:
    """The plan as JSON; a plan that does not fit is refused: the page shows what works."""
    command = [sys.executable, "-c", MAIN, *case.command.split(), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip() or "does not fit"
        sys.exit(f"flaxmill {case.command} ended with exit code {done.returncode}: {said}")
    return json.loads(done.stdout)


def _read_sections() -> dict[str, str]:
    """The page's sections by their titles."""
    if not PAGE.exists():
        return {}
    parts = PAGE.read_text(encoding="utf-8").split(HEADING)[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2].strip("\n") for part in parts}


def _write(sections: dict[str, str]) -> None:
    shares = " and ".join(f"{run.what} reached {run.share:.2f} of theirs" for run in published_runs())
    page = INTRODUCTION.format(shares=shares)
    for case in CASES:
        if case.title in sections:
            page += f"{HEADING}{case.title}\n\n{sections[case.title]}\n"
    PAGE.write_text(page, encoding="utf-8")


def _section(case: Case, plan: dict[str, Any]) -> str:
    mesh = ", ".join(each.replace("=", " ") for each in describe_shape(plan["mesh"]).split())
    share = plan["memory"]["total"] / plan["memory"]["limit"]
    facts = [
        f"{plan['description']}. Mesh: {mesh}. It takes {share:.0%} of the memory, {_work(plan)}",
        *_stages(plan),
        *(f"Replaced: {line}." for line in plan["replaced"]),
        *(f"Warning: {line}." for line in plan["warnings"]),
    ]
    tables = [_memory_table(plan["memory"]), _roofline_table(plan), _collectives_table(plan["collectives"])]
    return "\n\n".join([f"```\nflaxmill {case.command}\n```", *facts, *tables])


def _stages(plan: dict[str, Any]) -> list[str]:
    """How long stages wait, and how evenly the layers lie on them."""
    words = describe_schedule(Pipeline(**plan["pipeline"]))
    if words is None:
        return []
    model = load_config(plan["experiment"]).model
    layers = plan_layers(model)
    num_piped = len(layers.period) * layers.num_periods
    outside = model.num_layers - num_piped
    line = (
        f"{words[0].upper()}{words[1:]}. Each stage has {num_piped // plan['pipeline']['num_stages']} of "
        f"{model.num_layers} layers; {f'{outside} layers, ' if outside else ''}embeddings and the loss are "
        "outside the pipeline, where every device has rows of its own."
    )
    return [line]


def _work(plan: dict[str, Any]) -> str:
    cost = plan["cost"]
    ceiling, *others = cost["speeds"]
    days = " and ".join(f"{speed['days']:,.1f}" for speed in others)
    return (
        f"a checkpoint {plan['checkpoint_bytes'] / GIB:,.1f} GiB, compiling "
        f"{plan['compile_cpu_seconds']:.0f} CPU seconds. {cost['tokens']:.2e} tokens take at least "
        f"{ceiling['days']:,.1f} days, or {ceiling['device_hours']:,.0f} device-hours; at the shares that "
        f"published runs reached, {days} days."
    )


def _memory_table(memory: dict[str, Any]) -> str:
    names = (*KINDS, "total", "limit")
    return _table([names, [f"{memory[name] / GIB:.2f} GiB" for name in names]])


def _roofline_table(plan: dict[str, Any]) -> str:
    roofline = plan["roofline"]
    names = ("compute", "memory", "wires", "network")
    header = [*names, "binds", "tokens a second", "MFU, causal halved", "MFU in full"]
    seconds = [f"{roofline[f'{name}_seconds']:.3f} s" for name in names]
    mfu = roofline["mfu"]
    rates = [f"{roofline['tokens_per_second']:,.0f}", f"{mfu['causal']:.1%}", f"{mfu['full']:.1%}"]
    return _table([header, [*seconds, roofline["binds"], *rates]])


def _collectives_table(collectives: Sequence[dict[str, Any]]) -> str:
    rows = [["kind", "dtype", "axes", "where", "sites", "times a step", "largest", "a device sends"]]
    merged = merge_collectives([Collective(**row) for row in collectives])
    for key, (sites, times, largest, wire) in merged.items():
        if wire >= MIB:  # single numbers are left out
            counts = [str(sites), f"{times:,}", f"{largest / MIB:,.1f} MiB", f"{wire / GIB:.3f} GiB"]
            rows.append([*key, *counts])
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    header, *others = rows
    lines = [header, ["---"] * len(header), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
