"""The mesh takes the devices that it asks for, and says so when it cannot."""

import jax
import pytest
from jax.sharding import AxisType

from flaxmill.sharding.mesh import MeshConfig, axis_sizes, describe_free_axis, fill_free_axis, make_mesh


def test_the_free_axis_takes_the_remaining_devices():
    assert dict(make_mesh(MeshConfig()).shape) == {
        "data": 8,
        "stage": 1,
        "fsdp": 1,
        "expert": 1,
        "context": 1,
        "tensor": 1,
    }
    assert dict(make_mesh(MeshConfig(fsdp=2)).shape) == {
        "data": 4,
        "stage": 1,
        "fsdp": 2,
        "expert": 1,
        "context": 1,
        "tensor": 1,
    }
    mesh = make_mesh(MeshConfig(data=1, fsdp=None, tensor=2))
    assert dict(mesh.shape) == {"data": 1, "stage": 1, "fsdp": 4, "expert": 1, "context": 1, "tensor": 2}


def test_axes_come_in_mesh_order_and_are_automatic():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    assert mesh.axis_names == ("data", "stage", "fsdp", "expert", "context", "tensor")
    assert mesh.axis_types == (AxisType.Auto,) * 6
    assert tuple(axis_sizes(MeshConfig(data=2, fsdp=3, tensor=4)).values()) == (2, 1, 3, 1, 1, 4)


def test_a_small_mesh_uses_the_first_devices():
    mesh = make_mesh(MeshConfig(data=2, fsdp=1, tensor=1))
    assert list(mesh.devices.flat) == jax.devices()[:2]


def test_two_free_axes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"mesh\.data and mesh\.tensor are None; only one"):
        MeshConfig(data=None, tensor=None)


@pytest.mark.parametrize("axis", ["data", "stage", "fsdp", "expert", "tensor"])
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


def test_slices_are_the_outer_part_of_data():
    mesh = make_mesh(MeshConfig(data=4, fsdp=2, slices=2))
    assert dict(mesh.shape) == {"data": 4, "stage": 1, "fsdp": 2, "expert": 1, "context": 1, "tensor": 1}
    assert list(mesh.devices[:2].flat) == jax.devices()[:4]


def test_data_that_slices_do_not_divide_is_refused_with_what_would():
    with pytest.raises(ValueError, match=r"mesh\.data=1 is not a multiple of mesh\.slices=2.*mesh\.data=2"):
        make_mesh(MeshConfig(data=1, fsdp=8, slices=2))
    with pytest.raises(ValueError, match=r"mesh\.slices=0 must be at least 1$"):
        MeshConfig(slices=0)


@pytest.mark.parametrize(
    ("num_devices", "config", "sizes"),
    [
        (4, MeshConfig(data=1, fsdp=None), (1, 4, 1)),
        (32, MeshConfig(data=1, fsdp=None), (1, 32, 1)),
        (64, MeshConfig(data=1, fsdp=None), (2, 32, 1)),
        (48, MeshConfig(data=1, fsdp=None), (2, 24, 1)),
        (128, MeshConfig(data=2, fsdp=None, tensor=4), (2, 16, 4)),
        (64, MeshConfig(data=1, fsdp=64), (1, 64, 1)),
        (64, MeshConfig(data=1, fsdp=None, slices=4), (4, 16, 1)),
        (256, MeshConfig(data=1, fsdp=None, slices=2), (8, 32, 1)),
    ],
)
def test_a_free_fsdp_axis_takes_at_most_32_tpu_devices_of_a_slice(num_devices, config, sizes):
    filled = fill_free_axis(config, num_devices, "tpu")
    assert tuple(filled[axis] for axis in ("data", "fsdp", "tensor")) == sizes


def test_a_free_fsdp_axis_takes_all_devices_elsewhere():
    assert fill_free_axis(MeshConfig(data=1, fsdp=None), 64, "gpu")["fsdp"] == 64


def test_data_that_grows_beyond_the_config_is_said():
    config = MeshConfig(data=1, fsdp=None, slices=2)
    line = describe_free_axis(config, make_mesh(config))
    assert line == (
        "mesh.fsdp=None takes 4 devices and mesh.data takes the rest, 2; set both for another mesh"
    )
    assert describe_free_axis(MeshConfig(data=2, fsdp=None), make_mesh(MeshConfig(data=2, fsdp=None))) is None
    assert describe_free_axis(MeshConfig(), make_mesh(MeshConfig())) is None
