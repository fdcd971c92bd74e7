"""The ceiling is what the scarcest resource allows; every byte enters a host once."""

from typing import NamedTuple

import pytest

from flaxmill.sharding.hardware.chips import CHIPS
from flaxmill.train.metrics.flops import StepFlops
from flaxmill.train.plan.roofline import Group, group_of, make_roofline, sent

V5P, H100 = CHIPS["v5p"], CHIPS["h100"]
MESH = {"data": 2, "fsdp": 8, "tensor": 4}


class Row(NamedTuple):
    kind: str
    num_bytes: int
    times: int
    axes: tuple[str, ...]
    across_slices: bool = False
    wire_bytes: int | None = None
    group: int | None = None


class CompiledRow(NamedTuple):
    kind: str
    num_bytes: int
    wire_bytes: int
    times: int
    axes: tuple[str, ...]
    group: int
    across_slices: bool = False


def roofline(rows, chip=V5P, mesh=None, hardware=4e18, memory_bytes=0.0, domain=None):
    mesh = mesh or {"data": 1, "fsdp": 8, "tensor": 1}
    flops = StepFlops(3e18, 2.5e18)
    return make_roofline(flops, hardware, memory_bytes, rows, chip, mesh, 1000, domain)


def test_arithmetic_is_shared_by_all_devices():
    found = roofline([])
    assert found.compute_seconds == 4e18 / 8 / 459e12
    assert found.binds == "compute"
    assert found.seconds == found.compute_seconds
    assert found.tokens_per_second == 1000 / found.seconds
    assert found.mfu.full == pytest.approx(3 / 4)
    assert found.mfu.causal == pytest.approx(2.5 / 4)


def test_each_resource_can_bind():
    assert roofline([], hardware=1e12, memory_bytes=1e12).binds == "memory"
    assert roofline([Row("all-gather", 10**12, 1, ("fsdp",))], hardware=1e12).binds == "wires"
    mesh = {"data": 8, "fsdp": 8, "tensor": 1}
    found = roofline([Row("all-reduce", 10**12, 1, ("data",))], H100, mesh, hardware=1e12)
    assert found.binds == "network"
    assert found.network_seconds == pytest.approx(2 * 7 / 8 * 1e12 / 50e9)
    assert found.wire_seconds == 0


def test_a_device_sends_with_half_of_what_both_directions_carry():
    found = roofline([Row("all-gather", 8 * 10**9, 2, ("fsdp",))])
    assert found.wire_seconds == pytest.approx(2 * 7e9 / 600e9)


def test_transfers_between_slices_take_the_network_and_the_rest_of_the_program_its_links():
    mesh = {"data": 4, "fsdp": 8, "tensor": 1}
    rows = [
        CompiledRow("all-reduce", 800, 700, 1, ("data",), group=2),
        CompiledRow("send", 400, 400, 3, ("data",), group=2, across_slices=True),
    ]
    found = roofline(rows, mesh=mesh, domain=16)
    assert found.network_seconds == pytest.approx(3 * 400 / V5P.network_bandwidth)
    assert found.wire_seconds == pytest.approx(700 / 600e9)


@pytest.mark.parametrize(
    ("kind", "passes"), [("all-gather", 1), ("reduce-scatter", 1), ("all-reduce", 2), ("all-to-all", 1)]
)
def test_in_one_domain_all_goes_over_its_links(kind, passes):
    assert sent(kind, 800, Group(8, 8)) == (pytest.approx(passes * 700), 0)


@pytest.mark.parametrize("kind", ["all-gather", "all-reduce"])
def test_one_device_a_host_sends_all_over_the_network(kind):
    assert sent(kind, 800, Group(8, 1)) == (0, sent(kind, 800, Group(8, 8)).links)


def test_the_devices_of_a_host_share_what_enters_it():
    whole = sent("all-gather", 800, Group(64, 8))
    # 56/64 of the result come from other hosts, an eighth of it through each device.
    assert whole.network == 800 * 56 / 64 / 8
    assert whole.links == 800 * 7 / 8


def test_a_group_knows_its_neighbours():
    assert group_of(("tensor",), MESH, domain=8) == (4, 4)
    assert group_of(("fsdp",), MESH, domain=8) == (8, 2)
    assert group_of(("data",), MESH, domain=8) == (2, 1)
    assert group_of(("data", "fsdp"), MESH, domain=64) == (16, 16)
    assert group_of(("data", "fsdp"), MESH, domain=32) == (16, 8)


def test_a_permutation_takes_the_wire_that_it_needs():
    assert sent("collective-permute", 10, Group(4, 4)) == (10, 0)
    assert sent("collective-permute", 10, Group(4, 1)) == (0, 10)
    assert sent("all-gather", 10, Group(1, 1)) == (0, 0)
