"""What is proposed fits, changes no more than it must, and comes in order of cost."""

import dataclasses

import pytest
from planned_runs import named

from flaxmill.sharding.hardware.chips import CHIPS
from flaxmill.train.plan.analytic import estimate
from flaxmill.train.plan.proposals import SPARE, apply_overrides, propose

V5E, V5P, H100 = CHIPS["v5e"], CHIPS["v5p"], CHIPS["h100"]
FSDP64 = {"data": 1, "fsdp": 64, "tensor": 1}


def test_the_cheapest_change_is_more_recomputation():
    mesh = {"data": 4, "fsdp": 1, "tensor": 1}
    found = propose(named("gpt2_124m"), mesh, V5E)
    assert [set(proposal.overrides) for proposal in found] == [
        {"model.remat"},
        {"accumulate"},
        {"batch_size", *(f"mesh.{axis}" for axis in mesh)},  # half of the rows is not enough alone
    ]
    assert found[0].overrides == {"model.remat": "full"}


@pytest.mark.parametrize(
    ("name", "chip", "mesh"),
    [
        ("gpt2_124m", V5E, {"data": 4, "fsdp": 1, "tensor": 1}),
        ("llama3_8b", V5E, {"data": 4, "fsdp": 16, "tensor": 1}),
        ("llama3_70b", CHIPS["v6e"], {"data": 8, "fsdp": 32, "tensor": 1}),
    ],
)
def test_every_proposal_fits_where_the_experiment_does_not(name, chip, mesh):
    experiment = named(name)
    assert not estimate(experiment, mesh, chip).memory.fits
    found = propose(experiment, mesh, chip)
    assert found
    for proposal in found:
        axes = {name.removeprefix("mesh."): size for name, size in proposal.overrides.items()}
        changed = {axis: axes.get(axis, size) for axis, size in mesh.items()}
        own = {key: value for key, value in proposal.overrides.items() if not key.startswith("mesh.")}
        again = estimate(apply_overrides(experiment, own), changed, chip)
        assert again.memory == proposal.estimate.memory
        assert again.memory.total <= SPARE * chip.memory_bytes


def test_a_program_that_takes_more_than_the_estimate_is_proposed_more():
    """XLA for GPUs may need thrice the estimate: what is proposed then has room for that."""
    experiment = named("llama3_8b")
    assert estimate(experiment, FSDP64, H100).memory.fits
    found = propose(experiment, FSDP64, H100, domain=8, compiled=114 * 2**30)
    assert found[0].overrides == {"accumulate": 2}
    assert found[0].estimate.memory.total < 0.7 * estimate(experiment, FSDP64, H100).memory.total


def test_tensor_parallelism_stays_within_a_host():
    small = dataclasses.replace(H100, memory_bytes=6 * 10**9)
    for proposal in propose(named("llama3_8b"), {"data": 8, "fsdp": 8, "tensor": 1}, small):
        assert proposal.overrides.get("mesh.tensor", 1) <= 8


def test_slices_keep_copies_of_the_weights():
    small = dataclasses.replace(V5P, memory_bytes=20 * 10**9)
    for proposal in propose(named("llama3_8b"), {"data": 4, "fsdp": 16, "tensor": 1}, small, num_slices=4):
        assert proposal.overrides.get("mesh.data", 4) == 4


def test_nothing_is_proposed_where_nothing_helps():
    tiny = dataclasses.replace(V5P, memory_bytes=10**9)
    assert propose(named("llama3_70b"), {"data": 1, "fsdp": 8, "tensor": 1}, tiny) == []
