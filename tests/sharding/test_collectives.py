"""Gathers and scatters along a mesh axis, in one stage and in two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from flaxmill.sharding import collectives
from flaxmill.sharding.collectives import all_gather, device_sum, reduce_scatter
from flaxmill.sharding.mesh import MeshConfig, make_mesh

MESH = make_mesh(MeshConfig(data=1, fsdp=8))


@pytest.fixture(params=["one stage", "two stages"])
def stages(request, monkeypatch):
    if request.param == "two stages":
        monkeypatch.setattr(collectives, "platform", lambda: "tpu")
        monkeypatch.setattr(collectives, "MOST_TPU_SHARDS", 4)
    return request.param


def lowered(run, x, in_spec, out_spec):
    with jax.set_mesh(MESH):
        on_devices = jax.shard_map(run, mesh=MESH, in_specs=in_spec, out_specs=out_spec, check_vma=False)
        return jax.jit(on_devices).lower(x)


@pytest.mark.parametrize("dim", [0, 1])
def test_a_gather_puts_the_parts_in_order(stages, dim):
    x = jnp.arange(16 * 32.0).reshape(16, 32)
    split = PartitionSpec(*([None] * dim), "fsdp")
    run = lowered(lambda part: all_gather(part, "fsdp", dim), x, split, PartitionSpec())
    assert run.as_text().count('"stablehlo.all_gather"') == (1 if stages == "one stage" else 2)
    np.testing.assert_array_equal(run.compile()(x), x)


@pytest.mark.parametrize("dim", [0, 1])
def test_a_scatter_gives_each_device_its_own_part_of_the_sum(stages, dim):
    x = jax.random.randint(jax.random.key(0), (8, 16, 32), 0, 100).astype(jnp.float32)
    split = PartitionSpec(*([None] * dim), "fsdp")
    run = lowered(lambda part: reduce_scatter(part[0], "fsdp", dim), x, PartitionSpec("fsdp"), split)
    assert run.as_text().count('"stablehlo.reduce_scatter"') == (1 if stages == "one stage" else 2)
    np.testing.assert_array_equal(run.compile()(x), x.sum(0))


@pytest.mark.parametrize(
    ("shape", "dim", "sent"),
    [
        ((16, 1, 128), 0, "16x128"),
        ((1, 16, 1), 1, "16"),
        ((256, 64), 1, "2x128x64"),  # 8 of 64 columns, less than a vector of 128
        ((256, 1024), 1, "256x1024"),
        ((96, 64), 1, "96x64"),
        ((2, 128, 64), 2, "2x128x64"),
    ],
)
def test_a_tpu_scatters_what_its_compiler_does_not_sum_whole(shape, dim, sent, monkeypatch):
    monkeypatch.setattr(collectives, "platform", lambda: "tpu")
    x = jax.random.randint(jax.random.key(0), (8, *shape), 0, 100).astype(jnp.float32)
    split = PartitionSpec(*([None] * dim), "fsdp")
    run = lowered(lambda part: reduce_scatter(part[0], "fsdp", dim), x, PartitionSpec("fsdp"), split)
    assert f"(tensor<{sent}xf32>) -> " in run.as_text()
    np.testing.assert_array_equal(run.compile()(x), x.sum(0))


def test_groups_are_as_small_as_they_can_be_and_cover_all_devices():
    assert collectives._block(64) == 8
    assert collectives._block(128) in (8, 16)
    assert collectives._block(96) in (8, 12)
    assert collectives._block(2048) == 1  # no two stages are small enough
    assert collectives._block(67) == 1


def test_sums_of_bfloat16_are_added_over_devices():
    x = jnp.ones((8, 4), jnp.bfloat16)
    run = lowered(lambda part: device_sum(part, "fsdp"), x, PartitionSpec("fsdp"), PartitionSpec())
    got = run.compile()(x)
    assert got.dtype == jnp.bfloat16
    assert (got == 8).all()
