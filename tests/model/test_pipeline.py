"""What a pipeline keeps in memory, and what it sends; tests/properties/test_axes.py has its numbers."""

from typing import Any

import jax
import pytest

from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import abstract_params, count_params
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.compilation.abstract_batch import abstract_batch
from flaxmill.train.experiment import Experiment
from flaxmill.train.optimizer.optimizers import OptimizerConfig, make_optimizer
from flaxmill.train.state import abstract_state
from flaxmill.train.step import make_train_step

pytestmark = pytest.mark.slow

MODEL = ModelConfig(
    vocab_size=256, max_positions=16, num_layers=8, embed_dim=256, num_heads=4, causal=True, head="lm",
    positions="rotary", remat="full",
)  # fmt: skip


def compiled_step(**fields) -> Any:
    """The step of a pipeline of four stages, on rows so short that weights are most of the memory."""
    mesh_config = MeshConfig(data=1, stage=4, fsdp=2)
    experiment = Experiment(
        model=MODEL, mesh=mesh_config, data=DataConfig(sequence_length=16), batch_size=64, **fields
    )
    mesh, optimizer = make_mesh(mesh_config), make_optimizer(OptimizerConfig(), abstract_params(MODEL))
    batch = abstract_batch(experiment, mesh)
    with jax.set_mesh(mesh):
        step = make_train_step(experiment, optimizer, mesh, batch.max_predictions)
        return step.lower(abstract_state(MODEL, optimizer, mesh), batch.arrays, None).compile()


@pytest.mark.parametrize("num_rounds", [1, 2])
def test_the_backward_pass_keeps_no_weights_for_each_tick(num_rounds):
    few, many = (
        compiled_step(pipeline_microbatches=number, pipeline_rounds=num_rounds).memory_analysis()
        for number in (4, 32)
    )
    of_a_stage = 4 * count_params(MODEL) / 4
    assert many.temp_size_in_bytes < few.temp_size_in_bytes + of_a_stage  # 28 or 56 more ticks
    assert many.temp_size_in_bytes < 8 * of_a_stage


def test_weights_change_hands_once_and_hidden_states_at_each_tick():
    text = compiled_step(pipeline_microbatches=8).as_text()
    entry = text[text.index("ENTRY") :]
    assert "collective-permute(" not in entry  # they are in the loops over ticks
    assert "all-to-all(" in entry
    assert "all-gather(" in entry
    loops = text[: text.index("ENTRY")]
    assert "collective-permute(" in loops
    assert "all-to-all(" not in loops
    assert "all-gather(" not in loops
