"""A plan reads well: the verdict first, every number with its unit, and JSON with the same numbers."""

import json
from typing import Any

import pytest
from planned_runs import named, small_gpt

from flaxmill.sharding.hardware.chips import CHIPS, GIB
from flaxmill.train.compilation.collectives import Collective
from flaxmill.train.plan.analytic import estimate
from flaxmill.train.plan.assemble import make_plan
from flaxmill.train.plan.html_report import page_of
from flaxmill.train.plan.json_report import json_of
from flaxmill.train.plan.report import KINDS, Plan, as_flags, merge_collectives, table, text_of
from flaxmill.train.plan.search import candidates
from flaxmill.train.plan.weights import HostMemory

ROWS = [
    Collective(
        "all-gather", "bf16", (4096, 64), 2**20, 2**20, 64, ("fsdp",), False, True, 16, "attention", "ag.1"
    ),
    Collective("all-gather", "bf16", (4096, 96), 2**21, 2**21, 64, ("fsdp",), False, True, 16, "mlp", "ag.2"),
    Collective("send", "f32", (9,), 2**30, 2**30, 1, ("data",), True, False, 2, "<sum> & co", "send.1"),
]


def plan(name: str = "llama3_8b", chip: str | None = "v5e", **changes: Any) -> Plan:
    """A plan whose compiled figures are the estimate's."""
    experiment = named(name) if name != "small" else small_gpt()
    mesh = {"data": 4, "fsdp": 16, "tensor": 1}
    of_chip = None if chip is None else CHIPS[chip]
    given: dict[str, Any] = {
        "topology": "v5e:8x8",
        "description": "64 chips of 8 hosts",
        "memory": estimate(experiment, mesh, of_chip).memory,
        "collectives": ROWS,
        "warnings": ["all-reduce of 2.0 GiB <whole>"],
        "compile_cpu_seconds": 12.34,
        "replaced": ["attention by cuDNN"],
    }
    return make_plan(experiment, mesh, of_chip, **given | changes)


def test_the_verdict_comes_first():
    assert text_of(plan()).splitlines()[0] == (
        "llama3_8b on v5e:8x8 (data=4 fsdp=16 tensor=1) does not fit: 37.4 of 15.8 GiB a device (238%)"
    )
    assert " fits: " in text_of(plan(chip="v5p")).splitlines()[0]
    assert "does not fit" not in text_of(plan(chip="v5p"))


def test_what_does_not_fit_comes_with_flags_that_make_it_fit():
    text = text_of(plan())
    assert "What would make it fit" in text
    assert "  --accumulate 4 --mesh.data 2 --mesh.fsdp 32 --mesh.tensor 1\n" in text
    assert "What would make it fit" not in text_of(plan(chip="v5p"))


def test_all_that_was_asked_for_is_there():
    text = text_of(plan())
    for words in (
        "Replaced: attention by cuDNN",
        "all-reduce of 2.0 GiB <whole>",
        "across slices",
        "bound by compute",
        "https://docs.cloud.google.com/tpu/docs/v5e",
        "(MaxText)",
        "(torchtitan)",
        "device-hours",
        "A checkpoint takes 89.75 GiB.",
        "Compiling took 12.3 CPU seconds.",
    ):
        assert words in text


def test_figures_that_no_page_confirms_are_marked():
    assert "(?)" not in text_of(plan())
    assert text_of(plan(chip="v4")).count("(?)") == 4  # three rates, and what the mark means


def test_a_cpu_has_no_peaks_and_no_verdict():
    text = text_of(plan("small", chip=None, topology="cpu:64"))
    assert "the memory of this machine is not known" in text.splitlines()[0]
    assert "The least time of a step" not in text
    assert json_of(plan("small", chip=None))["roofline"] is None


def test_collectives_alike_are_one_row():
    merged = merge_collectives(ROWS)
    assert merged["all-gather", "bf16", "fsdp", "layers"] == (2, 128, 2**21, 64 * 3 * 2**20)
    assert next(iter(merged))[0] == "send"  # the row that sends most


def test_json_has_what_programs_read():
    found = json.loads(json.dumps(json_of(plan(candidates=candidates(named("llama3_8b"), CHIPS["v5e"], 64)))))
    assert found["fits"] is False
    memory = found["memory"]
    assert memory["total"] == sum(memory[kind] for kind in KINDS)
    assert memory["host"] == 0
    assert [row["kind"] for row in found["collectives"]] == ["all-gather", "all-gather", "send"]
    assert found["collectives"][0]["axes"] == ["fsdp"]
    assert found["flops"]["full"] > found["flops"]["causal"]
    assert found["roofline"]["binds"] == "compute"
    assert found["roofline"]["seconds"] == max(
        value for name, value in found["roofline"].items() if name.endswith("_seconds")
    )
    assert found["cost"]["speeds"][0]["days"] < found["cost"]["speeds"][2]["days"]
    assert found["proposals"][0]["overrides"]["accumulate"] == 4
    assert found["candidates"][0]["fits"]


def test_memory_of_the_host_is_no_part_of_the_total_and_is_said_for_all_its_devices():
    plain = plan()
    on_device = estimate(named("llama3_8b"), plain.mesh, CHIPS["v5e"]).memory
    host = HostMemory(activations=3 * GIB)
    found = plan(memory=on_device._replace(host=host), devices_a_host=8)
    line = (
        "on the host   3.000 GiB  offloaded activations, beside the above; 24.0 GiB for a host of 8 devices"
    )
    assert line in text_of(found)
    assert "offloaded activations, beside the above; 24.0 GiB" in page_of(found)
    assert text_of(found).splitlines()[0] == text_of(plain).splitlines()[0]
    values = json_of(found)
    assert values["memory"] == json_of(plain)["memory"] | {"host": 3 * GIB}
    assert values["host_memory"] == {"state": 0, "activations": 3 * GIB, "devices_a_host": 8}
    assert "on the host" not in text_of(plain) + page_of(plain)


def test_days_and_device_hours_follow_from_the_tokens():
    cost = json_of(plan())["cost"]
    assert cost["tokens"] == 50_000 * 512 * 8192
    ceiling = cost["speeds"][0]
    assert ceiling["days"] * 86_400 * ceiling["tokens_per_second"] == pytest.approx(cost["tokens"])
    assert ceiling["device_hours"] == pytest.approx(ceiling["days"] * 24 * 64)


def layouts(mesh: dict[str, int], *overrides: dict[str, Any]) -> Plan:
    """A plan of this mesh with layouts of these settings."""
    one = candidates(named("llama3_8b"), CHIPS["v5p"], 64, most=1)[0]
    found = [one._replace(overrides=one.overrides | changed) for changed in overrides]
    experiment = named("llama3_8b")
    memory = estimate(experiment, mesh, CHIPS["v5p"]).memory
    return plan(chip="v5p", candidates=found)._replace(mesh=mesh, memory=memory)


def test_layouts_leave_out_axes_of_one_device_and_the_schedule_of_no_pipeline():
    mesh = {"data": 4, "fsdp": 16, "tensor": 1}
    plain = {"mesh.data": 2, "mesh.fsdp": 32, "mesh.tensor": 1}
    text = text_of(layouts(mesh, plain))
    assert "data  fsdp  tensor  remat  accumulate" in text
    assert "Take the first with --mesh.data 2 --mesh.fsdp 32 --mesh.tensor 1 --model.remat " in text
    assert "pipeline" not in text
    staged = plain | {"mesh.stage": 4, "mesh.fsdp": 8, "pipeline_microbatches": 8, "pipeline_rounds": 2}
    text = text_of(layouts(mesh, staged, plain))
    assert "data  stage  fsdp  tensor  remat  accumulate  microbatches  rounds" in text
    assert "--mesh.stage 4 --mesh.fsdp 8 " in text
    assert " --pipeline-microbatches 8 --pipeline-rounds 2\n" in text
    assert "<code>--mesh.data 2 --mesh.stage 4 " in page_of(layouts(mesh, staged, plain))


def test_layouts_say_an_axis_that_the_plan_has_and_they_have_not():
    mesh = {"data": 4, "fsdp": 8, "context": 2, "tensor": 1}
    text = text_of(layouts(mesh, {"mesh.data": 2, "mesh.fsdp": 32, "mesh.tensor": 1}))
    assert "--mesh.fsdp 32 --mesh.context 1 --mesh.tensor 1" in text


def test_switches_are_typed_without_a_value():
    overrides = {"mesh.sequence_parallel": True, "model.scan_layers": False, "accumulate": 2}
    assert as_flags(overrides) == "--mesh.sequence-parallel --model.no-scan-layers --accumulate 2"


def test_columns_of_numbers_end_at_one_place():
    assert table(("a", "b"), [("x", "1"), ("long", "10")]) == ["  a      b", "  x      1", "  long  10"]


def test_the_page_stands_alone_and_escapes_what_it_shows():
    page = page_of(plan())
    assert page.startswith("<!DOCTYPE html>")
    for outside in ("<script", "<link", "src=", "@import", "url("):
        assert outside not in page
    assert "all-reduce of 2.0 GiB &lt;whole&gt;" in page
    assert "<whole>" not in page
    assert "prefers-color-scheme: dark" in page
    # Memory, proposals, seconds, cost, collectives, settings.
    assert page.count("<table>") == page.count("<caption>") == 6
    assert 'role="img" aria-label="Memory of a device' in page


def test_the_page_draws_memory_in_proportion():
    one = plan(chip="v5p")
    page = page_of(one)
    share = one.memory.activations / CHIPS["v5p"].memory_bytes
    assert f'width="{720 * share:.1f}"' in page


def test_a_plan_may_be_made_of_a_program_that_takes_more_than_the_estimate():
    experiment = named("llama3_8b")
    memory = estimate(experiment, {"data": 4, "fsdp": 16, "tensor": 1}, CHIPS["h100"]).memory
    larger = memory._replace(temporary=100 * GIB)
    found = plan(chip="h100", memory=larger, domain=8)
    assert not found.memory.fits
    assert found.proposals
    assert plan(chip="h100", memory=larger, with_proposals=False).proposals == []
