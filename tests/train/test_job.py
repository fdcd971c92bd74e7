"""What is refused before a run takes anything."""

from types import SimpleNamespace
from typing import Any

import pytest

from flaxmill.model import ModelConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.job import check_host_memory
from flaxmill.train.optimizer.config import OptimizerConfig

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
