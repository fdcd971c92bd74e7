"""Bytes that a device sends: a ring's on one kind of wire, each byte once into a host on two kinds."""

import pytest

from flaxmill.train.plan.traffic import Group, group_of, sent

MESH = {"data": 2, "fsdp": 8, "tensor": 4}


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
