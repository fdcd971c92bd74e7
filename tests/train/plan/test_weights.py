"""What a device holds is what training places on it."""

from dataclasses import replace

import jax
import pytest
from planned_runs import small_gpt, small_llama

from flaxmill.model.functional import abstract_params, count_params
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.optimizer.optimizers import make_optimizer
from flaxmill.train.plan import weights
from flaxmill.train.plan.weights import list_weights, state_bytes
from flaxmill.train.state import init_state, state_shardings

MESH = (("data", 2), ("fsdp", 2), ("tensor", 2))


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "lion", "muon"])
def test_the_state_is_as_large_as_the_arrays_that_training_makes(name):
    experiment = small_gpt(num_layers=2)
    optimizer_config = replace(experiment.optimizer, name=name)
    optimizer = make_optimizer(optimizer_config, abstract_params(experiment.model))
    state = init_state(experiment.model, optimizer, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), seed=0)

    def on_first_device(tree) -> int:
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

    found = state_bytes(experiment.model, optimizer_config, MESH)
    assert found.parameters == found.trained == on_first_device(state.params)
    assert found.optimizer == on_first_device(state.optimizer)


def test_state_that_a_host_keeps_is_counted_apart(monkeypatch):
    plain = state_bytes(small_gpt().model, small_gpt().optimizer, MESH)

    def on_host(*given):
        shardings = state_shardings(*given)
        moved = jax.tree.map(lambda each: each.with_memory_kind("pinned_host"), shardings.optimizer)
        return shardings._replace(optimizer=moved)

    monkeypatch.setattr(weights, "state_shardings", on_host)
    found = state_bytes.__wrapped__(small_gpt().model, small_gpt().optimizer, MESH)
    assert plain.on_host == 0
    assert found == plain._replace(optimizer=0, on_host=plain.optimizer)


def test_frozen_weights_have_no_gradient_and_no_moments():
    experiment = small_gpt()
    frozen = replace(experiment.optimizer, freeze=("layers/*",))
    whole, part = (state_bytes(experiment.model, one, MESH) for one in (experiment.optimizer, frozen))
    assert part.parameters == whole.parameters
    assert part.trained < 0.5 * whole.trained
    assert part.optimizer < 0.5 * whole.optimizer
    assert {w.is_trained for w in list_weights(experiment.model, frozen.freeze, MESH) if w.num_layers} == {
        False
    }


def test_weights_add_up_to_the_model():
    model = small_llama().model
    one = (("data", 1), ("fsdp", 1), ("tensor", 1))
    found = list_weights(model, (), one)
    assert sum(w.size * (w.num_layers or 1) for w in found) == count_params(model)
    assert not any(w.is_split for w in found)
    # Norm scales are whole on every device; tensor splits all else in two, and fsdp's shards are gathered.
    for whole, divided in zip(found, list_weights(model, (), MESH), strict=True):
        parts = 1 if whole.path[-1] == "scale" else 2
        assert divided.size * parts == whole.size
        assert divided.is_split == (parts == 2)
