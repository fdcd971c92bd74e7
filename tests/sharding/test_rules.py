"""One table places every array, and refuses what it cannot place."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from flaxmill.model import ModelConfig, abstract_params, logical_axes
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.sharding.rules import (
    ACTIVATION_RULES,
    PARAMETER_RULES,
    constrain,
    mesh_axes,
    num_shards,
    parameter_sharding,
    partition_spec,
    platform,
)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def test_parameters_are_split_over_fsdp_stage_and_tensor_and_copied_over_data(mesh):
    spec = partition_spec(("layers", "embed", "heads", "head_dim"), PARAMETER_RULES, mesh)
    assert spec == PartitionSpec(None, ("fsdp", "stage"), "tensor", None)
    table = partition_spec(("vocab", "embed"), PARAMETER_RULES, mesh)
    assert table == PartitionSpec("tensor", ("fsdp", "stage"))


def test_rows_are_split_over_data_stage_fsdp_and_expert(mesh):
    spec = partition_spec(("batch", "tokens", None), ACTIVATION_RULES, mesh)
    assert spec == PartitionSpec(("data", "stage", "fsdp", "expert"), None, None)


def test_experts_lie_on_devices_of_their_own(mesh):
    spec = partition_spec(("layers", "experts", "embed", "expert_mlp"), PARAMETER_RULES, mesh)
    assert spec == PartitionSpec(None, "expert", ("fsdp", "stage"), "tensor")


def test_mesh_axes_that_the_mesh_lacks_are_left_out():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    assert mesh_axes("batch", ACTIVATION_RULES, mesh) == ("data",)
    assert mesh_axes("heads", ACTIVATION_RULES, mesh) is None


def test_shards_are_the_product_of_the_axes(mesh):
    assert num_shards(("data", "fsdp"), mesh) == 4
    assert num_shards("tensor", mesh) == 2
    assert num_shards(None, mesh) == 1


def test_two_dimensions_on_one_mesh_axis_are_refused_with_both_names(mesh):
    with pytest.raises(ValueError, match=r"'heads' and 'mlp' .* mesh axis 'tensor'"):
        partition_spec(("heads", "mlp"), PARAMETER_RULES, mesh)


def test_a_collision_within_a_group_of_mesh_axes_is_found(mesh):
    rules = {"batch": ("data", "fsdp"), "embed": "fsdp"}
    with pytest.raises(ValueError, match=r"'batch' and 'embed' .* mesh axis 'fsdp'"):
        partition_spec(("batch", "embed"), rules, mesh)


def test_a_size_that_does_not_divide_is_refused_with_both_numbers(mesh):
    with pytest.raises(ValueError, match=r"'heads' dimension of 3 does not divide over .* 'tensor' of 2"):
        parameter_sharding(mesh, ("embed", "heads", "head_dim"), (8, 3, 4))


def test_an_unknown_logical_axis_is_an_error(mesh):
    with pytest.raises(KeyError, match="depth"):
        partition_spec(("depth",), PARAMETER_RULES, mesh)


@pytest.mark.parametrize("head", ["lm", "mlm", "mlm_nsp"])
def test_every_parameter_of_every_head_has_a_place(mesh, head):
    config = ModelConfig(
        vocab_size=200, max_positions=8, causal=head == "lm", head=head, num_segments=2, gated_mlp=True
    )
    places = jax.tree.map(
        lambda leaf, axes: parameter_sharding(mesh, axes, leaf.shape),
        abstract_params(config),
        logical_axes(config),
    )
    assert jax.tree.structure(places) == jax.tree.structure(abstract_params(config))


def test_constrain_holds_an_activation_to_the_table_on_the_mesh_in_use(mesh):
    with jax.set_mesh(mesh):
        placed = jax.jit(lambda x: constrain(x, "batch", "tokens", "heads"))(jnp.zeros((8, 3, 4)))
    assert placed.sharding.shard_shape(placed.shape) == (2, 3, 2)


def test_constrain_without_a_mesh_changes_nothing():
    x = jnp.ones((3, 5))
    assert constrain(x, "batch", "heads") is x


def test_the_platform_is_that_of_the_mesh(mesh):
    assert platform() == "cpu"
    with jax.set_mesh(mesh):
        assert platform() == "cpu"
