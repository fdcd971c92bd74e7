"""The script that writes docs/plans.md: its flags fit by the estimate; a section has the plan's numbers."""

import importlib.util
import json
from pathlib import Path

import pytest
from planned_runs import named

from flaxmill.sharding.hardware.chips import CHIPS
from flaxmill.train.plan.analytic import estimate
from flaxmill.train.plan.assemble import make_plan
from flaxmill.train.plan.json_report import json_of

_FILE = Path(__file__).resolve().parents[2] / "docs" / "make_plans.py"
_SPEC = importlib.util.spec_from_file_location("make_plans", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
make_plans = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make_plans)

# The meshes that the flags give, and on TPU the rule for a free fsdp axis.
MESHES = {
    "gpt2_124m on v5e:2x2": (4, 1, 1),
    "bert_large on v5e:4x4": (16, 1, 1),
    "llama3_8b on v5p:4x4x4": (2, 32, 1),
    "llama3_8b on h100:8x8": (8, 8, 1),
    "llama3_8b on v5p:4x4x4, rows of 131,072 tokens": (1, 8, 1, 8),
    "mixtral_8x7b on v5p:4x4x8": (1, 16, 1, 1, 8),
    "llama3_70b on v5p:8x8x8": (16, 32, 1),
    "llama3_70b on v6e:16x16": (2, 32, 4),
    "llama3_70b on h100:32x8, a pipeline of four stages": (1, 8, 8, 1, 1, 4),
    "llama31_405b on v5p:16x16x16": (64, 32, 8),
}
FIELDS = {
    "--accumulate": "accumulate",
    "--batch-size": "batch_size",
    "--data.sequence-length": "data__sequence_length",
    "--model.max-positions": "model__max_positions",
    "--pipeline-microbatches": "pipeline_microbatches",
}


def planned(case):
    """The experiment of a case, its mesh and its chip."""
    words = case.flags.replace("--mesh.sequence-parallel", "--mesh.sequence-parallel True").split()
    flags = dict(zip(words[::2], words[1::2], strict=True))
    axes = ("data", "fsdp", "tensor", "context", "expert", "stage")
    mesh: dict[str, int] = dict(zip(axes, MESHES[case.title], strict=False))
    for axis, size in mesh.items():
        assert flags.get(f"--mesh.{axis}", str(size)) == str(size)
    changes = {field: int(flags[flag]) for flag, field in FIELDS.items() if flag in flags}
    splits = "--mesh.sequence-parallel" in flags
    return (
        named(case.experiment, mesh__sequence_parallel=splits, **changes),
        mesh,
        CHIPS[case.topology.partition(":")[0]],
    )


@pytest.mark.parametrize("case", make_plans.CASES, ids=lambda case: case.title)
def test_every_plan_fits_by_the_estimate(case):
    experiment, mesh, chip = planned(case)
    memory = estimate(experiment, mesh, chip).memory
    assert memory.total < 0.9 * chip.memory_bytes


def test_a_section_has_the_command_and_the_numbers_of_the_plan():
    case = make_plans.CASES[2]
    experiment, mesh, chip = planned(case)
    found = estimate(experiment, mesh, chip)
    plan = make_plan(
        experiment,
        mesh,
        chip,
        topology=case.topology,
        description="64 chips of 16 hosts",
        memory=found.memory,
        collectives=[],
        warnings=["the table is reduced whole"],
        compile_cpu_seconds=12.3,
    )
    values = json.loads(json.dumps(json_of(plan)))
    row = {"kind": "all-gather", "dtype": "bf16", "axes": ["fsdp"], "num_bytes": 2**20, "wire_bytes": 2**20}
    row |= {"times": 64, "across_slices": False, "inside_layers": True, "shape": [2**19], "group": 32}
    row |= {"operation": "mlp_block", "source_name": "all-gather.1"}
    values["collectives"] = [row]
    section = make_plans._section(case, values)
    for words in (
        "flaxmill plan llama3_8b --topology v5p:4x4x4",
        "64 chips of 16 hosts. Mesh: data 2, fsdp 32, tensor 1.",
        "compiling 12 CPU seconds",
        "Warning: the table is reduced whole.",
        f"{found.memory.total / 2**30:.2f} GiB",
        "| all-gather | bf16 | fsdp | layers | 1 | 64 | 1.0 MiB | 0.062 GiB |",
    ):
        assert words in section
