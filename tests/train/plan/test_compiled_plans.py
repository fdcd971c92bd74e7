"""The search compiles until enough layouts fit, and learns from those that do not."""

from types import SimpleNamespace
from typing import Any

import pytest
from planned_runs import named

from flaxmill.sharding.hardware.chips import CHIPS
from flaxmill.train.plan import compiled_plans
from flaxmill.train.plan.analytic import estimate
from flaxmill.train.plan.assemble import make_plan
from flaxmill.train.plan.memory import DeviceMemory

CHIP = CHIPS["v5e"]
TOPOLOGY: Any = SimpleNamespace(
    name="v5e:2x2", chip=CHIP, devices=[None] * 4, num_slices=1, link_domain=4, devices_a_host=4
)
MESH = {"data": 4, "fsdp": 1, "tensor": 1}


def memory_of(experiment, mesh: dict[str, int], factor: float) -> DeviceMemory:
    found = estimate(experiment, mesh, CHIP).memory
    rest = int(factor * (found.gradients + found.activations + found.temporary))
    total = found.parameters + found.optimizer + rest
    return DeviceMemory(found.parameters, found.optimizer, 0, 0, rest, total, CHIP.memory_bytes)


def search(monkeypatch: pytest.MonkeyPatch, factor: float):
    """The layouts of GPT-2 where steps take so much more than estimated, and those that were compiled."""
    experiment = named("gpt2_124m")
    compiled = []

    def compile_step(changed, topology):
        mesh = {axis: getattr(changed.mesh, axis) for axis in MESH}
        compiled.append(changed)
        return SimpleNamespace(memory=memory_of(changed, mesh, factor))

    monkeypatch.setattr(compiled_plans, "_compile", compile_step)
    monkeypatch.setattr(compiled_plans, "resolve_without_data", lambda given: given)
    memory = estimate(experiment, MESH, CHIP).memory
    plan = make_plan(
        experiment, MESH, CHIP, topology="v5e:2x2", description="", memory=memory, collectives=[]
    )
    return compiled_plans.compile_best(plan, experiment, TOPOLOGY, 3).candidates, compiled


@pytest.mark.parametrize("factor", [0.9, 1.4])
def test_three_layouts_that_fit_are_compiled_and_come_first(factor, monkeypatch):
    found, compiled = search(monkeypatch, factor)
    assert all(one.fits and one.reasons.startswith("compiled: ") for one in found[:3])
    assert 3 <= len(compiled) <= 6
    assert (len(compiled) > 3) == (factor > 1)


def test_what_was_learnt_of_a_policy_is_applied_to_its_other_layouts(monkeypatch):
    found, _ = search(monkeypatch, 1.4)
    learnt = [one for one in found if one.fits and one.overrides["model.remat"] == "dots"]
    limit = 0.95 * CHIP.memory_bytes
    for one in learnt:
        memory = one.estimate.memory
        state = memory.parameters + memory.optimizer
        assert state + 1.39 * (memory.total - state) <= limit


def test_a_step_that_the_compiler_refused_has_the_estimates_activations_and_times():
    experiment = named("gpt2_124m")
    found = estimate(experiment, MESH, CHIP)
    memory = memory_of(experiment, MESH, 1.4)
    given: dict[str, Any] = {"topology": "v5e:2x2", "description": "", "memory": memory}
    plan = make_plan(experiment, MESH, CHIP, **given, collectives=None)
    assert not plan.is_compiled
    assert plan.collectives == ()
    assert plan.roofline == found.roofline
    assert make_plan(experiment, MESH, CHIP, **given, collectives=[]).roofline != found.roofline
