"""Host rows become the right global arrays."""

import jax
import numpy as np
import pytest

from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.sharding.placement import local_rows, place_rows

MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]


def mesh_of(shape):
    return make_mesh(MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2]))


@pytest.fixture(scope="module")
def rows():
    numbers = np.arange(16 * 3, dtype=np.int32).reshape(16, 3)
    return {"tokens": numbers, "weights": numbers.astype(np.float32), "labels": numbers[:, 0]}


@pytest.mark.parametrize("shape", MESHES)
def test_placed_rows_are_the_rows_in_order_with_their_dtypes(shape, rows):
    placed = place_rows(mesh_of(shape), rows, 16)
    assert placed.keys() == rows.keys()
    for name, value in rows.items():
        assert placed[name].dtype == value.dtype
        np.testing.assert_array_equal(jax.device_get(placed[name]), value)


def test_each_device_holds_its_own_rows_and_the_tensor_axis_shares_them(rows):
    mesh = mesh_of((2, 2, 2))
    tokens = place_rows(mesh, rows, 16)["tokens"]
    held = {shard.device: np.asarray(shard.data) for shard in tokens.addressable_shards}
    for (data, fsdp, _), device in np.ndenumerate(mesh.devices):
        first = 4 * (2 * data + fsdp)
        np.testing.assert_array_equal(held[device], rows["tokens"][first : first + 4])


@pytest.mark.parametrize("shape", MESHES)
def test_a_single_process_reads_every_row(shape):
    assert local_rows(mesh_of(shape), 16) == (0, 16)


def test_a_process_reads_the_rows_of_its_own_devices_only(monkeypatch):
    """Two hosts of four devices: each is asked for its half of the rows."""
    mesh = mesh_of((2, 2, 2))
    addressable = jax.sharding.NamedSharding.addressable_devices_indices_map

    def of_second_host(sharding, shape):
        mine = set(mesh.devices.flat[4:])
        return {device: index for device, index in addressable(sharding, shape).items() if device in mine}

    monkeypatch.setattr(jax.sharding.NamedSharding, "addressable_devices_indices_map", of_second_host)
    assert local_rows(mesh, 16) == (8, 16)
