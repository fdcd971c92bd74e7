import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.checkpoint.digest import compute_digests, digest_array


def digest(x) -> int:
    return compute_digests({"x": jnp.asarray(x)})["x"]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_])
def test_every_single_bit_counts(dtype):
    x = np.asarray(jnp.asarray(np.arange(24).reshape(2, 3, 4) % 2, dtype))
    seen = {digest(x)}
    num_flips = 0
    for byte in range(x.nbytes):
        for bit in range(1 if dtype == jnp.bool_ else 8):
            changed = x.copy()
            changed.view(np.uint8).reshape(-1)[byte] ^= 1 << bit
            seen.add(digest(changed))
            num_flips += 1
    assert len(seen) == num_flips + 1


@pytest.mark.parametrize("shape", [(), (5,), (3, 7), (2, 9, 4), (9, 2, 11), (2, 2, 2, 3)])
def test_digest_is_what_checkpoints_of_format_1_hold(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    word = x.reshape(-1).view(np.uint32) ^ np.arange(x.size, dtype=np.uint32) * np.uint32(0x9E3779B1)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        word = (word ^ (word >> shift)) * np.uint32(factor)
    assert digest(x) == int(np.sum(word ^ (word >> 16), dtype=np.uint32))


def test_two_flipped_signs_count():
    x = np.linspace(1, 2, 10, dtype=np.float32)
    changed = x.copy()
    changed[[3, 7]] *= -1
    assert digest(x) != digest(changed)


def test_order_counts():
    x = np.arange(1000, dtype=np.float32)
    assert digest(x) != digest(x[::-1])
    assert digest(x.reshape(10, 100)) != digest(x.reshape(100, 10).T)


def test_nan_and_signed_zero_are_bits():
    assert digest(np.array([np.nan, 1], np.float32)) == digest(np.array([np.nan, 1], np.float32))
    assert digest(np.array([0.0], np.float32)) != digest(np.array([-0.0], np.float32))


def test_digest_is_the_same_on_every_mesh():
    x = np.random.default_rng(0).normal(size=(16, 8, 24)).astype(np.float32)
    expected = digest(x)
    for data, fsdp, tensor in ((8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2)):
        mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
        for spec in (
            PartitionSpec(),
            PartitionSpec("fsdp", None, "tensor"),
            PartitionSpec(None, ("fsdp", "tensor")),
        ):
            assert digest(jax.device_put(x, NamedSharding(mesh, spec))) == expected


def test_digest_gathers_nothing():
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    x = jax.device_put(jnp.ones((16, 32)), NamedSharding(mesh, PartitionSpec("fsdp", "tensor")))
    program = jax.jit(digest_array).lower(x).compile().as_text()
    assert program is not None
    assert "all-gather" not in program
    assert "all-reduce" in program


def test_scalars_have_digests():
    assert digest(np.int32(3)) != digest(np.int32(4))
