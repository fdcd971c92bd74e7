"""Meshes use all devices, keep activations on fast links, and have stages beyond them alone."""

import math

import pytest

from flaxmill.sharding.mesh import AXES
from flaxmill.sharding.mesh_shapes import mesh_shapes, shares_in_vain


@pytest.mark.parametrize(
    ("number", "slices", "near", "experts"), [(64, 1, 8, None), (32, 2, 16, 8), (6, 1, 6, 4)]
)
def test_every_mesh_has_all_axes_and_keeps_activations_near(number, slices, near, experts):
    found = list(mesh_shapes(number, slices, near, experts))
    assert len({tuple(shape.values()) for shape in found}) == len(found)
    for shape in found:
        assert tuple(shape) == AXES
        assert math.prod(shape.values()) == number
        assert shape["data"] % slices == 0
        assert near % (shape["expert"] * shape["context"] * shape["tensor"]) == 0
        assert (experts or 1) % shape["expert"] == 0
        assert shape["stage"] == 1 or number // shape["data"] > near


def test_stages_need_devices_beyond_the_fast_links():
    assert {shape["stage"] for shape in mesh_shapes(64, 1, 64, None)} == {1}
    assert {shape["stage"] for shape in mesh_shapes(64, 1, 8, None)} == {1, 2, 4, 8, 16, 32, 64}


def test_rows_are_shared_where_none_are_left():
    shape = dict.fromkeys(AXES, 1) | {"data": 2, "context": 4}
    assert not shares_in_vain(2, 1, shape)
    assert not shares_in_vain(6, 1, shape)  # three rows for each: none of four devices could have its own
    assert shares_in_vain(4, 1, shape)
    assert not shares_in_vain(4, 2, shape)
    assert shares_in_vain(3, 1, shape)  # rows do not divide
