"""The state is created with the mesh's shardings, and has the same values on every mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.model import ModelConfig, abstract_params
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.optimizer.optimizers import OptimizerConfig, make_optimizer
from flaxmill.train.state import abstract_state, init_state, param_shardings, state_shardings

CONFIG = ModelConfig(
    vocab_size=200,
    max_positions=8,
    num_layers=2,
    embed_dim=16,
    num_heads=8,
    causal=True,
    head="lm",
)
ADAMW = make_optimizer(OptimizerConfig(), abstract_params(CONFIG))


def mesh_of(data, fsdp, tensor):
    return make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))


def names_of(path):
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)


@functools.cache
def state_on(data, fsdp, tensor):
    """The state on a mesh, compiled once for each, since that takes seconds."""
    return init_state(CONFIG, ADAMW, mesh_of(data, fsdp, tensor), seed=3)


@pytest.fixture(scope="module")
def split_state():
    return state_on(2, 2, 2)


def test_every_device_holds_its_shard_alone(split_state):
    params = split_state.params
    shards = {
        "attention/query/kernel": (2, 16 // 2, 8 // 2, 2),  # [L, D over fsdp, N over tensor, H]
        "attention/out/kernel": (2, 8 // 2, 2, 16 // 2),
        "mlp/up/kernel": (2, 16 // 2, 64 // 2),
        "mlp/down/kernel": (2, 64 // 2, 16 // 2),
    }
    for name, shape in shards.items():
        part, dense, leaf = name.split("/")
        array = params["layers"][part][dense][leaf]
        assert {shard.data.shape for shard in array.addressable_shards} == {shape}, name
    embedding = params["embed"]["tokens"]["embedding"]
    assert embedding.shape == (256, 16)
    assert {shard.data.shape for shard in embedding.addressable_shards} == {(128, 8)}


def test_a_device_stores_its_share_of_the_whole_state():
    """Nothing large is whole anywhere: on fsdp 8 a device holds an eighth, and the small rest."""
    state = state_on(1, 8, 1)
    whole = sum(leaf.size for leaf in jax.tree.leaves(state))
    held = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state))
    vectors = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.size < 1024)
    assert held <= whole / 8 + vectors


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 1), (1, 1, 8)])
def test_initial_values_are_the_same_bits_on_every_mesh(shape, split_state):
    state = state_on(*shape)
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(split_state), strict=True
    ):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes(), names_of(path)


def test_another_seed_gives_other_weights(split_state):
    other = init_state(CONFIG, ADAMW, mesh_of(2, 2, 2), seed=4)
    kernel = lambda state: np.asarray(state.params["layers"]["mlp"]["up"]["kernel"])  # noqa: E731
    assert (kernel(other) != kernel(split_state)).all()


def test_counters_start_at_zero_and_weights_are_float32(split_state):
    assert (int(split_state.step), int(split_state.skipped)) == (0, 0)
    assert split_state.step.dtype == split_state.skipped.dtype == jnp.int32
    assert {leaf.dtype for leaf in jax.tree.leaves(split_state.params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "lion", "muon"])
def test_optimizer_state_shaped_like_a_parameter_lives_where_it_does(name):
    mesh = mesh_of(2, 2, 2)
    optimizer = make_optimizer(OptimizerConfig(name=name), abstract_params(CONFIG))
    shardings = state_shardings(CONFIG, optimizer, mesh)
    shapes = jax.eval_shape(optimizer.init, abstract_params(CONFIG))
    of_params = {
        names_of(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(abstract_params(CONFIG)),
            jax.tree.leaves(param_shardings(CONFIG, mesh)),
            strict=True,
        )
    }
    num_like_a_parameter = 0
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(shardings.optimizer), strict=True
    ):
        ends = [names_of(path)[start:] for start in range(len(path))]
        owner = next((end for end in ends if end in of_params), None)
        if owner is None or of_params[owner][0] != leaf.shape:
            assert sharding.is_fully_replicated, names_of(path)
            continue
        assert sharding == of_params[owner][1], names_of(path)
        num_like_a_parameter += 1
    copies = {"adamw": 2, "lamb": 2, "lion": 1, "muon": 1, "adafactor": 0}[name]
    assert num_like_a_parameter >= copies * len(of_params)


def test_the_abstract_state_describes_the_state(split_state):
    described = abstract_state(CONFIG, ADAMW, mesh_of(2, 2, 2))
    for one, other in zip(jax.tree.leaves(split_state), jax.tree.leaves(described), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)


def test_a_size_that_does_not_divide_is_refused_with_both_numbers():
    odd = dataclasses.replace(CONFIG, num_heads=3, head_dim=4)
    with pytest.raises(ValueError, match=r"heads' dimension of 3 does not divide .* of 2"):
        param_shardings(odd, mesh_of(1, 1, 2))
