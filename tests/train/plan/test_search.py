"""The search finds the layouts that people choose by hand, and says why."""

import dataclasses
import math

import pytest
from planned_runs import named, small_gpt

from flaxmill.sharding.hardware.chips import CHIPS, Chip
from flaxmill.sharding.mesh import AXES, make_mesh
from flaxmill.train.compilation.compiled_step import resolve_without_data
from flaxmill.train.named_configs import load_config
from flaxmill.train.plan import search
from flaxmill.train.plan.analytic import estimate
from flaxmill.train.plan.proposals import apply_overrides
from flaxmill.train.plan.search import Candidate, candidates, list_layouts
from flaxmill.train.run.mesh_fit import check_mesh

H100 = CHIPS["h100"]


def with_network(share: float, chip: Chip = H100) -> Chip:
    """The chip with so much of its network."""
    return dataclasses.replace(chip, network_bandwidth=share * chip.network_bandwidth)


SLOW = with_network(1 / 8)


def sizes_of(one: Candidate) -> dict[str, int]:
    return {axis: one.overrides[f"mesh.{axis}"] for axis in AXES}


def test_hosts_with_a_slow_network_keep_the_gathers_to_themselves():
    best = candidates(named("llama3_8b"), with_network(1 / 10), 128)[0]
    assert best.fits
    assert best.overrides["mesh.fsdp"] * best.overrides["mesh.tensor"] <= 8
    assert best.overrides["mesh.data"] >= 16
    assert "only gradients cross the network" in best.reasons


def test_a_model_of_8_billion_is_divided_within_each_host():
    best = candidates(named("llama3_8b"), H100, 64)[0]
    assert sizes_of(best) == dict.fromkeys(AXES, 1) | {"data": 8, "fsdp": 8}


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
        sizes = sizes_of(one)
        assert sizes["data"] % 4 == 0
        assert math.prod(sizes.values()) == 256


@pytest.mark.slow
def test_experts_are_divided_where_a_model_has_some():
    found = candidates(named("mixtral_8x7b"), CHIPS["v5p"], 128, most=300)
    sizes = {one.overrides["mesh.expert"] for one in found}
    assert sizes == {1, 2, 4, 8}
    # Chunks are computed again whatever is kept; where all is, experts that are not gathered come first.
    full = [one for one in found if one.overrides["model.remat"] == "full"]
    assert full[0].overrides["mesh.expert"] > 1
    for one in found:
        assert math.prod(sizes_of(one).values()) == 128
    assert candidates(named("llama3_8b"), CHIPS["v5p"], 64)[0].overrides["mesh.expert"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "chip", "number"),
    [("llama3_8b", "h100", 64), ("llama3_70b", "v5p", 256), ("mixtral_8x7b", "v5p", 128)],
)
def test_rows_and_layers_stay_whole_where_that_fits_and_computes_all_the_time(name, chip, number):
    for one in list_layouts(named(name), CHIPS[chip], number):
        assert (one.overrides["mesh.stage"], one.overrides["mesh.context"]) == (1, 1)


@pytest.mark.slow
def test_devices_share_long_rows_of_which_there_are_few():
    changes = {"data__sequence_length": 131_072, "model__max_positions": 131_072}
    best = candidates(named("llama3_8b", batch_size=8, **changes), CHIPS["v5p"], 64)[0]
    assert best.fits
    assert best.overrides["mesh.context"] == 8
    assert "8 devices share each row" in best.reasons
    many = candidates(named("llama3_8b", **changes), CHIPS["v5p"], 64, most=200)
    parts = {131_072 // one.overrides["mesh.context"] for one in many}
    assert min(parts) == 8192  # shorter ones hide less than they send


def test_no_devices_share_rows_that_could_have_rows_of_their_own():
    found = list_layouts(named("llama3_8b", batch_size=32), H100, 64)
    assert any(one.overrides["mesh.context"] > 1 for one in found)
    for one in found:
        sizes = sizes_of(one)
        groups = math.prod(sizes[axis] for axis in ("data", "stage", "fsdp", "expert"))
        assert math.gcd(32 // (groups * one.overrides["accumulate"]), sizes["context"]) == 1


@pytest.mark.slow
def test_short_rows_are_shared_where_nothing_else_fits():
    found = candidates(named("llama3_70b"), CHIPS["v5e"], 256, most=200)
    assert not found[0].fits
    assert {one.overrides["mesh.context"] for one in found} > {1, 2}


@pytest.fixture(scope="module")
def mixtral_on_slow_hosts() -> list[Candidate]:
    return list_layouts(named("mixtral_8x7b"), SLOW, 128)


@pytest.mark.slow
def test_stages_serve_where_gathers_would_fill_a_slow_network(mixtral_on_slow_hosts):
    best = search.choose(mixtral_on_slow_hosts, SLOW)[0]
    assert best.fits
    assert best.overrides["mesh.stage"] > 1
    assert best.overrides["pipeline_rounds"] > 1
    assert "stages wait 9% of their time" in best.reasons
    others = [one for one in mixtral_on_slow_hosts if one.overrides["mesh.stage"] == 1]
    without = search.choose(others, SLOW)[0]
    assert "network binds" in without.reasons
    assert without.seconds > 1.5 * best.seconds


@pytest.mark.slow
def test_what_stages_wait_counts_in_the_seconds(mixtral_on_slow_hosts):
    same = [
        one
        for one in mixtral_on_slow_hosts
        if sizes_of(one) == dict.fromkeys(AXES, 1) | {"stage": 4, "fsdp": 8, "expert": 4}
        and (one.overrides["model.remat"], one.overrides["accumulate"]) == ("dots", 1)
    ]
    assert [one.overrides["pipeline_rounds"] for one in same] == [1, 2, 4, 8]
    bubbles = [one.estimate.pipeline.bubble for one in same]
    computed = [one.estimate.roofline.compute_seconds for one in same if one.estimate.roofline]
    assert bubbles == sorted(bubbles, reverse=True)
    assert computed == sorted(computed, reverse=True)
    assert computed[0] > 1.1 * computed[-1]


@pytest.mark.slow
def test_a_dense_model_on_a_slow_network_gathers_seldom_and_has_no_stages():
    """With one microbatch fsdp gathers 70 billion weights twice; stages need several, and wait as well."""
    for share, binds in ((1, "compute"), (1 / 8, "compute"), (1 / 32, "network")):
        best = candidates(named("llama3_70b"), with_network(share), 256)[0]
        assert (best.overrides["mesh.stage"], best.overrides["accumulate"]) == (1, 1)
        assert f"{binds} binds" in best.reasons


@pytest.mark.parametrize("name", ["gpt", "few rows", "bert_tiny", "moe_tiny"])
def test_every_layout_passes_the_checks_of_training(name):
    tiny = {
        "gpt": small_gpt(num_layers=8),
        "few rows": dataclasses.replace(small_gpt(num_layers=8), batch_size=4),
    }
    experiment = tiny.get(name) or resolve_without_data(load_config(name))
    slow = dataclasses.replace(with_network(1e-4), link_domain=4)
    found = list_layouts(experiment, slow, 8)
    assert {tuple(one.overrides) for one in found} == {tuple(found[0].overrides)}
    for one in found:
        changed = apply_overrides(experiment, one.overrides)
        mesh = make_mesh(changed.mesh)
        assert mesh.size == 8
        check_mesh(changed, mesh)
    tried = {axis for one in found for axis, size in sizes_of(one).items() if size > 1}
    assert {"data", "fsdp", "tensor"} <= tried
    assert ("expert" in tried) == (name == "moe_tiny")
    assert ("stage" in tried) == (name in ("gpt", "few rows"))
    assert "context" in tried or name != "few rows"


@pytest.mark.parametrize(
    ("name", "chip", "number", "most"), [("llama3_8b", "h100", 64, 348), ("mixtral_8x7b", "v5p", 128, 1230)]
)
def test_a_search_estimates_no_more_than_it_needs(name, chip, number, most, monkeypatch):
    calls = []

    def counted(*given):
        calls.append(given)
        return estimate(*given)

    monkeypatch.setattr(search, "estimate", counted)
    list_layouts(named(name), CHIPS[chip], number)
    assert len(calls) <= most
