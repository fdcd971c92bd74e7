"""The mesh takes the devices that it asks for, and says so when it cannot."""

import jax
import pytest
from jax.sharding import AxisType

from flaxmill.sharding.mesh import MeshConfig, axis_sizes, make_mesh


def test_the_free_axis_takes_the_remaining_devices():
    assert dict(make_mesh(MeshConfig()).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(MeshConfig(fsdp=2)).shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    mesh = make_mesh(MeshConfig(data=1, fsdp=None, tensor=2))
    assert dict(mesh.shape) == {"data": 1, "fsdp": 4, "tensor": 2}


def test_axes_come_in_mesh_order_and_are_automatic():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert tuple(axis_sizes(MeshConfig(data=2, fsdp=3, tensor=4)).values()) == (2, 3, 4)


def test_a_small_mesh_uses_the_first_devices():
    mesh = make_mesh(MeshConfig(data=2, fsdp=1, tensor=1))
    assert list(mesh.devices.flat) == jax.devices()[:2]


def test_two_free_axes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"mesh\.data and mesh\.tensor are None; only one"):
        MeshConfig(data=None, tensor=None)


@pytest.mark.parametrize("axis", ["data", "fsdp", "tensor"])
@pytest.mark.parametrize("size", [0, -1])
def test_an_axis_below_one_is_refused_with_its_value(axis, size):
    with pytest.raises(ValueError, match=rf"mesh\.{axis}={size} must be at least 1"):
        MeshConfig(**{axis: size})


def test_more_devices_than_there_are_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"mesh\.fsdp=4 mesh\.tensor=1 asks for 16 devices .* there are 8"):
        make_mesh(MeshConfig(data=4, fsdp=4))


def test_axes_that_do_not_divide_the_devices_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"mesh\.fsdp=3 .*8 devices do not divide by 3"):
        make_mesh(MeshConfig(fsdp=3))


def test_a_mesh_without_free_axis_need_not_divide_the_devices():
    assert make_mesh(MeshConfig(data=3)).size == 3


def test_a_job_of_many_processes_must_use_every_device(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"uses 4 of 8 devices; with 2 processes"):
        make_mesh(MeshConfig(data=4))
