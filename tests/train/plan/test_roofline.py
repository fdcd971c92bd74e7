"""The ceiling is what the scarcest resource allows."""

from typing import NamedTuple

import pytest

from flaxmill.sharding.hardware.chips import CHIPS
from flaxmill.train.metrics.flops import StepFlops
from flaxmill.train.plan.roofline import make_roofline

V5P, H100 = CHIPS["v5p"], CHIPS["h100"]


class Row(NamedTuple):
    kind: str
    num_bytes: int
    times: int
    axes: tuple[str, ...]
    across_slices: bool = False


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
