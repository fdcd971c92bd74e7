"""Host rows become the right global arrays."""

import jax
import numpy as np
import pytest

from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.sharding.placement import local_rows, local_tokens, place_parts, place_rows, zigzag_order

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


@pytest.fixture
def hold_only(monkeypatch):
    """Makes this process one of several, which holds these devices and no others."""
    addressable = jax.sharding.NamedSharding.addressable_devices_indices_map

    def hold(devices):
        def of_this_host(sharding, shape):
            found = addressable(sharding, shape).items()
            return {device: index for device, index in found if device in set(devices)}

        monkeypatch.setattr(jax.sharding.NamedSharding, "addressable_devices_indices_map", of_this_host)

    return hold


def test_a_process_reads_the_rows_of_its_own_devices_only(hold_only):
    """Two hosts of four devices: each is asked for its half of the rows."""
    mesh = mesh_of((2, 2, 2))
    hold_only(mesh.devices.flat[4:])
    assert local_rows(mesh, 16) == (8, 16)


@pytest.mark.parametrize(
    ("held", "zigzag", "expected"),
    [
        (range(8), True, [range(64)]),
        (range(4, 8), False, [range(32, 64)]),
        # Chunks of four tokens: the second and third of either end.
        (range(1, 3), True, [range(4, 12), range(52, 60)]),
        (range(4, 8), True, [range(16, 48)]),
        ((2, 5), False, [range(16, 24), range(40, 48)]),
    ],
)
def test_a_process_reads_the_tokens_of_its_own_devices_only(held, zigzag, expected, hold_only):
    mesh = make_mesh(MeshConfig(data=1, context=8))
    hold_only([mesh.devices.flat[number] for number in held])
    assert local_tokens(mesh, 64, zigzag=zigzag) == expected


@pytest.mark.parametrize("zigzag", [True, False])
def test_parts_of_rows_are_joined_before_they_are_placed(zigzag):
    mesh = make_mesh(MeshConfig(data=2, context=4))
    rows = {"tokens": np.arange(4 * 16, dtype=np.int32).reshape(4, 16), "labels": np.arange(4)}
    ranges = [range(0, 5), range(5, 16)]
    parts = [rows | {"tokens": rows["tokens"][:, part.start : part.stop]} for part in ranges]
    found, expected = (place_parts(mesh, given, 4, zigzag=zigzag) for given in (parts, [rows]))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


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
    placed = place_parts(mesh, [rows], 4, zigzag=True)
    order = np.asarray(placed["places"][0])
    np.testing.assert_array_equal(order, zigzag_order(16, 4))
    np.testing.assert_array_equal(placed["tokens"], tokens[:, order])
    for name in ("weights", "labels"):
        np.testing.assert_array_equal(placed[name], rows[name])
    assert placed["tokens"].addressable_shards[0].data.shape == (2, 4)
    assert placed["labels"].addressable_shards[0].data.shape == (2, 5)


def test_rows_that_no_devices_share_stay_in_order():
    rows = {"tokens": np.arange(32, dtype=np.int32).reshape(2, 16)}
    placed = place_parts(make_mesh(MeshConfig(data=2)), [rows], 2, zigzag=True)
    assert placed.keys() == rows.keys()
    np.testing.assert_array_equal(placed["tokens"], rows["tokens"])
