"""The estimate agrees with what the compiler reports, and with shapes where it is exact."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from planned_runs import named, small_gpt, small_llama

from flaxmill.model.functional import abstract_params, count_params
from flaxmill.sharding.hardware.chips import CHIPS
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.experiment import Experiment
from flaxmill.train.optimizer.optimizers import make_optimizer
from flaxmill.train.plan.analytic import estimate
from flaxmill.train.state import abstract_state
from flaxmill.train.step import make_train_step

FSDP = {"data": 1, "fsdp": 8, "tensor": 1}
EXPERTS = {"data": 1, "fsdp": 2, "expert": 4, "tensor": 1}


def compile_step(experiment: Experiment, mesh_shape: dict[str, Any]) -> Any:
    """XLA's account of the memory of the train step, a device."""
    mesh = make_mesh(MeshConfig(**mesh_shape))
    optimizer = make_optimizer(experiment.optimizer, abstract_params(experiment.model))
    rows = NamedSharding(mesh, PartitionSpec(("data", "stage", "fsdp", "expert")))
    shape = experiment.batch_size, experiment.data.sequence_length
    names = ("tokens", "mask", "positions", "documents", "targets")
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows) for name in names}
    batch["weights"] = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=rows)
    with jax.set_mesh(mesh):
        state = abstract_state(experiment.model, optimizer, mesh)
        step: Any = make_train_step(experiment, optimizer, mesh, None)
        return step.lower(state, batch).compile().memory_analysis()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "mesh_shape"),
    [
        (small_gpt(remat="none"), FSDP),
        (small_gpt(remat="full"), FSDP),
        (small_llama(remat="none"), FSDP),
        (small_llama(remat="dots"), {"data": 1, "fsdp": 4, "tensor": 2}),
        (small_llama(remat="full", accumulate=2), {"data": 2, "fsdp": 4, "tensor": 1}),
        (small_llama(remat="full", num_experts=8, expert_capacity=1.5), EXPERTS),
        (small_llama(remat="dots", num_experts=8, expert_capacity=1.5), EXPERTS),
        (small_llama(remat="full", num_layers=8), {"data": 1, "stage": 4, "fsdp": 2, "tensor": 1}),
    ],
    ids=[
        *("gpt, all kept", "gpt, full", "llama, all kept", "llama, dots, tensor", "llama, accumulated"),
        *("experts, full", "experts, dots", "llama, stages"),
    ],
)
def test_memory_is_within_a_quarter_of_what_the_compiler_reports(experiment, mesh_shape):
    compiled = compile_step(experiment, mesh_shape)
    memory = estimate(experiment, mesh_shape, None).memory
    # Parameters and optimizer are exact; the batch is the rest of the arguments.
    assert compiled.argument_size_in_bytes == pytest.approx(memory.parameters + memory.optimizer, rel=0.02)
    total = compiled.argument_size_in_bytes + compiled.temp_size_in_bytes
    total += compiled.output_size_in_bytes - compiled.alias_size_in_bytes
    assert memory.total == pytest.approx(total, rel=0.25)


def test_the_state_takes_twelve_bytes_a_parameter_and_gradients_four():
    experiment = named("llama3_8b")
    memory = estimate(experiment, {"data": 2, "fsdp": 32, "tensor": 1}, CHIPS["v5p"]).memory
    share = count_params(experiment.model) / 32
    # Norm scales are whole on every device: about a thousandth of a share.
    assert memory.parameters == memory.gradients == pytest.approx(4 * share, rel=2e-3)
    assert memory.optimizer == pytest.approx(8 * share, rel=2e-3)
    assert memory.total == sum(getattr(memory, kind) for kind in memory._fields[:5])


def test_less_is_kept_the_more_is_computed_again():
    totals, flops = [], []
    for remat in ("none", "dots", "full"):
        found = estimate(named("llama3_8b", model__remat=remat), FSDP, CHIPS["v5p"])
        totals.append(found.memory.activations)
        flops.append(found.hardware_flops)
    assert totals == sorted(totals, reverse=True)
    assert flops == sorted(flops)
    found = estimate(named("llama3_8b"), FSDP, CHIPS["v5p"])
    rows = 512 // 8
    layers = 32 * rows * 8192 * 4096 * 2  # with remat=full: each layer's input in bfloat16
    assert found.memory.activations == pytest.approx(layers, rel=0.2)


def test_microbatches_divide_activations_and_keep_the_state():
    one, four = (
        estimate(named("llama3_8b", accumulate=count), FSDP, CHIPS["v5p"]).memory for count in (1, 4)
    )
    assert four.activations == one.activations / 4
    assert four[:3] == one[:3]


def test_offloading_moves_activations_from_the_device_to_its_host():
    kept, offloaded = (
        estimate(named("llama3_8b", model__remat_tensors=tensors), FSDP, CHIPS["v5p"]).memory
        for tensors in ((), ("layer_input=offload",))
    )
    inputs = 32 * (512 // 8) * 8192 * 4096 * 2
    assert (kept.host.total, offloaded.host) == (0, (0, inputs))
    assert kept.total - offloaded.total == kept.activations - offloaded.activations == inputs


def test_a_loss_in_chunks_computes_its_logits_twice():
    experiment = named("llama3_8b", model__remat="none")
    found = estimate(experiment, FSDP, CHIPS["v5p"])
    logits = 2 * 512 * 8192 * 4096 * 128_256
    # Splash attention skips the masked half, so that causal pairs are what the hardware does.
    assert found.hardware_flops == found.flops.causal + logits
    narrow = dataclasses.replace(
        experiment, batch_size=8, data=dataclasses.replace(experiment.data, sequence_length=256)
    )
    assert (
        estimate(narrow, FSDP, CHIPS["v5p"]).hardware_flops
        == estimate(narrow, FSDP, CHIPS["v5p"]).flops.causal
    )


def test_what_does_not_divide_is_refused_as_training_refuses_it():
    with pytest.raises(ValueError, match=r"num_kv_heads=8 does not divide over mesh\.tensor=16"):
        estimate(named("llama3_8b"), {"data": 1, "fsdp": 4, "tensor": 16}, CHIPS["v5p"])
    with pytest.raises(ValueError, match="batch_size=512 does not divide"):
        estimate(named("llama3_8b"), {"data": 1024, "fsdp": 1, "tensor": 1}, CHIPS["v5p"])


def test_masked_words_pay_for_their_head_alone():
    experiment = named("bert_large")
    found = estimate(experiment, {"data": 16, "fsdp": 1, "tensor": 1}, CHIPS["v5e"])
    rows, places = 65_536, math.ceil(0.15 * 128)
    head = 3 * 2 * rows * places * 1024 * (30_592 + 1024)
    pooled = 3 * 2 * rows * 1024 * 1024
    layers = 3 * 2 * rows * 128 * 24 * 12 * 1024**2 + 3 * 4 * rows * 24 * 128 * 128 * 1024
    assert found.flops.full == pytest.approx(head + pooled + layers, rel=0.01)


def test_waiting_stages_compute_and_the_models_flops_stay():
    experiment = named("llama3_8b", batch_size=32)
    one, four = ({"data": 1, "stage": size, "fsdp": 8 // size, "tensor": 1} for size in (1, 4))
    plain, piped = (estimate(experiment, mesh, CHIPS["h100"]) for mesh in (one, four))
    assert piped.pipeline == (4, 8, 1)
    assert piped.flops == plain.flops
    head = 3 * 2 * 32 * 8192 * 4096 * 128_256
    again = plain.hardware_flops - plain.flops.causal  # the logits are among it, which no stage computes
    layers = plain.flops.causal - head + again - head / 3
    assert piped.hardware_flops == pytest.approx(plain.hardware_flops + layers * 3 / 8)
