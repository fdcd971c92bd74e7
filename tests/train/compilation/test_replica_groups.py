"""All forms in which XLA writes who takes part are read alike, and no other is guessed at."""

import pytest

from flaxmill.train.compilation.replica_groups import crossed_axes, read_groups

MESH = {"data": 2, "fsdp": 4, "tensor": 1}
OVER_FSDP = ((0, 1, 2, 3), (4, 5, 6, 7))
OVER_DATA = ((0, 4), (1, 5), (2, 6), (3, 7))


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true", OVER_FSDP),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", OVER_DATA),
        ("replica_groups=[2,4]<=[8], dimensions={0}", OVER_FSDP),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", OVER_DATA),
        ("replica_groups=[1,8]<=[8]", (tuple(range(8)),)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", OVER_FSDP),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", OVER_DATA),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", OVER_FSDP),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=(0,1,2,3,4,5,6,7) {'b'}", OVER_FSDP),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", OVER_DATA),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", OVER_FSDP),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", (tuple(range(8)),)),
        ("replica_groups={}, to_apply=%add", (tuple(range(8)),)),
        ("source_target_pairs={{0,1},{1,0}}", ((0, 1), (1, 0))),
    ],
)
def test_a_form_of_groups_is_read(written, groups):
    assert read_groups(f"channel_id=3, {written}", 8) == groups


@pytest.mark.parametrize(
    "written",
    [
        "replica_groups=[2,4]<-[8]",
        "replica_groups=rings{0}",
        "channel_id=1",
        "replica_groups=mesh['a'=8], device_ids=(8..0) {'a'}",
        "replica_groups=mesh['a'=8] {'b'}",
    ],
)
def test_a_form_that_is_not_known_is_an_error_and_not_all_devices(written):
    with pytest.raises(ValueError, match="of a collective"):
        read_groups(written, 8)


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        (OVER_FSDP, ("fsdp",)),
        (OVER_DATA, ("data",)),
        ((tuple(range(8)),), ("data", "fsdp")),
        (((0,), (1,)), ()),
        (((0, 1), (1, 2)), ("fsdp",)),
    ],
)
def test_the_axes_are_those_along_which_members_differ(groups, axes):
    assert crossed_axes(groups, MESH) == axes
