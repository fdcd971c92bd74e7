"""The search finds the layouts that people choose by hand, and says why."""

import dataclasses
import math

from planned_runs import named

from flaxmill.sharding.hardware.chips import CHIPS
from flaxmill.train.plan.search import candidates

H100 = CHIPS["h100"]


def test_hosts_with_a_slow_network_keep_the_gathers_to_themselves():
    slow = dataclasses.replace(H100, network_bandwidth=H100.network_bandwidth / 10)
    best = candidates(named("llama3_8b"), slow, 128)[0]
    assert best.fits
    assert best.overrides["mesh.fsdp"] * best.overrides["mesh.tensor"] <= 8
    assert best.overrides["mesh.data"] >= 16
    assert "only gradients cross the network" in best.reasons


def test_a_model_of_8_billion_is_divided_within_each_host():
    best = candidates(named("llama3_8b"), H100, 64)[0]
    assert {axis: best.overrides[f"mesh.{axis}"] for axis in ("data", "fsdp", "tensor")} == {
        "data": 8,
        "fsdp": 8,
        "tensor": 1,
    }


def test_groups_of_more_than_32_tpus_come_after_those_that_fit_without():
    found = candidates(named("llama3_8b"), CHIPS["v5p"], 64, most=200)
    fitting = [one.overrides["mesh.fsdp"] for one in found if one.fits]
    assert max(fitting) == 64
    large = [size > 32 for size in fitting]
    assert large == sorted(large)


def test_the_best_fit_and_the_rest_come_in_order():
    found = candidates(named("llama3_70b"), CHIPS["v6e"], 256, most=200)
    assert found[0].fits
    fits = [one.fits for one in found]
    assert fits == sorted(fits, reverse=True)
    needs = [one.estimate.memory.total for one in found if not one.fits]
    assert needs == sorted(needs)
    assert any("of the memory" in one.reasons for one in found if not one.fits)


def test_slices_are_copies_and_every_device_is_used():
    for one in candidates(named("llama3_70b"), CHIPS["v5p"], 256, num_slices=4, most=200):
        sizes = [one.overrides[f"mesh.{axis}"] for axis in ("data", "fsdp", "tensor")]
        assert sizes[0] % 4 == 0
        assert sizes[0] * sizes[1] * sizes[2] == 256


def test_experts_are_divided_where_a_model_has_some():
    found = candidates(named("mixtral_8x7b"), CHIPS["v5p"], 128, most=300)
    sizes = {one.overrides["mesh.expert"] for one in found}
    assert sizes == {1, 2, 4, 8}
    # Chunks are computed again whatever is kept; where all is, experts that are not gathered come first.
    full = [one for one in found if one.overrides["model.remat"] == "full"]
    assert full[0].overrides["mesh.expert"] > 1
    for one in found:
        assert (
            math.prod(one.overrides[f"mesh.{axis}"] for axis in ("data", "fsdp", "expert", "tensor")) == 128
        )
    assert "mesh.expert" not in candidates(named("llama3_8b"), CHIPS["v5p"], 64)[0].overrides
