"""What is refused before a run takes anything."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from flaxmill.model import ModelConfig
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.experiment import Experiment
from flaxmill.train.job import check_host_memory
from flaxmill.train.optimizer.config import OptimizerConfig
from flaxmill.train.run.mesh_fit import check_mesh

OFFLOADING = Experiment(model=ModelConfig(remat="full", remat_tensors=("layer_input=offload",)))


def mesh_with(*kinds) -> Any:
    memories = [SimpleNamespace(kind=kind) for kind in kinds]
    device = SimpleNamespace(addressable_memories=lambda: memories, device_kind="abacus")
    return SimpleNamespace(local_devices=[device])


def test_offloading_needs_memory_of_the_host():
    with pytest.raises(
        ValueError, match=r"needs the memory pinned_host, and this abacus has device; use layer_input="
    ):
        check_host_memory(OFFLOADING, mesh_with("device"))
    check_host_memory(OFFLOADING, mesh_with("device", "pinned_host"))
    check_host_memory(Experiment(), mesh_with("device"))
    moments = Experiment(optimizer=OptimizerConfig(offload=True))
    with pytest.raises(ValueError, match=r"optimizer.offload=True needs the memory .*; leave it False"):
        check_host_memory(moments, mesh_with("device"))
    check_host_memory(moments, mesh_with("device", "pinned_host"))


def test_split_tokens_divide_over_tensor_and_are_of_one_length():
    mesh = make_mesh(MeshConfig(data=1, tensor=4))
    split = Experiment(mesh=MeshConfig(sequence_parallel=True), model=ModelConfig(vocab_size=128))
    check_mesh(split, mesh)
    odd = dataclasses.replace(split, data=dataclasses.replace(split.data, sequence_length=126))
    with pytest.raises(ValueError, match=r"data.sequence_length=126 does not divide over mesh.tensor=4"):
        check_mesh(odd, mesh)
    two = dataclasses.replace(split, model=dataclasses.replace(split.model, encoder_layers=2))
    with pytest.raises(ValueError, match=r"an encoder-decoder has two; leave it False"):
        check_mesh(two, mesh)
