"""Host rows become the right global arrays."""

import jax
import numpy as np
import pytest

from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.sharding.placement import local_rows, place_parts, place_rows, zigzag_order

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
    for (data, _, fsdp, *_), device in np.ndenumerate(mesh.devices):
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


@pytest.mark.parametrize("num_parts", [2, 4, 8])
def test_zigzag_gives_every_part_the_same_number_of_visible_blocks(num_parts):
    """In each turn of the ring too: no device waits, and the critical path is that of an even division."""
    num_blocks = 4 * num_parts  # two in each chunk
    parts = zigzag_order(num_blocks, num_parts).reshape(num_parts, -1)
    visible = lambda queries, keys: (queries[:, None] >= keys[None, :]).sum()  # noqa: E731
    slowest = 0.0
    for turn in range(num_parts):
        work = [visible(parts[part], parts[part - turn]) for part in range(num_parts)]
        slowest += max(work)
        if turn:
            assert len(set(work)) == 1
    assert slowest == num_blocks * (num_blocks + 1) / 2 / num_parts


def test_parts_of_rows_in_zigzag_say_which_tokens_they_are():
    mesh = make_mesh(MeshConfig(data=2, context=4))
    tokens = np.arange(4 * 16, dtype=np.int32).reshape(4, 16)
    rows = {"tokens": tokens, "weights": tokens[:, 0].astype(np.float32), "labels": tokens[:, :5]}
    placed = place_parts(mesh, rows, 4, zigzag=True)
    order = np.asarray(placed["places"][0])
    np.testing.assert_array_equal(order, zigzag_order(16, 4))
    np.testing.assert_array_equal(placed["tokens"], tokens[:, order])
    for name in ("weights", "labels"):
        np.testing.assert_array_equal(placed[name], rows[name])
    assert placed["tokens"].addressable_shards[0].data.shape == (2, 4)
    assert placed["labels"].addressable_shards[0].data.shape == (2, 5)


def test_rows_that_no_devices_share_stay_in_order():
    rows = {"tokens": np.arange(32, dtype=np.int32).reshape(2, 16)}
    placed = place_parts(make_mesh(MeshConfig(data=2)), rows, 2, zigzag=True)
    assert placed.keys() == rows.keys()
    np.testing.assert_array_equal(placed["tokens"], rows["tokens"])
