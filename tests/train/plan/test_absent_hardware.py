"""Programs that the compilers of absent TPUs and GPUs make of small models: `make aot` compiles them."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.sharding.hardware.topologies import find_topology
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.compilation.collectives import Collective, find_collectives
from flaxmill.train.compilation.compiled_step import CompiledStep, TooLargeError, compile_step
from flaxmill.train.experiment import Experiment
from flaxmill.train.plan.analytic import estimate
from flaxmill.train.plan.memory import device_memory, largest_buffer, saved_activations

pytestmark = pytest.mark.aot

LAYERS, WIDTH, MLP, VOCABULARY, TOKENS = 3, 512, 1024, 4096, 512


def llama(mesh: MeshConfig, rows: int, **changes: Any) -> Experiment:
    """LLaMA's parts in small."""
    shape: dict[str, Any] = dict(
        vocab_size=VOCABULARY,
        num_layers=LAYERS,
        embed_dim=WIDTH,
        num_heads=8,
        num_kv_heads=4,
        head_dim=128,
        mlp_dim=MLP,
        norm="rmsnorm",
        positions="rotary",
        activation="silu",
        gated_mlp=True,
        use_bias=False,
        tie_embeddings=False,
        dtype="bfloat16",
        remat="full",
    )
    data = DataConfig(vocab_size=VOCABULARY, sequence_length=TOKENS)
    return Experiment(model=ModelConfig(**shape | changes), batch_size=rows, data=data, mesh=mesh)


def compiled(topology: str, mesh: MeshConfig, rows: int, slices: int = 1, **changes: Any) -> CompiledStep:
    return compile_step(llama(mesh, rows, **changes), find_topology(topology, slices))


def large(step: CompiledStep) -> list[Collective]:
    return [each for each in find_collectives(step.text, step.mesh) if each.num_bytes > 64 * 1024]


@pytest.fixture(scope="module")
def tpu() -> CompiledStep:
    return compiled("v5e:2x4", MeshConfig(data=1, fsdp=None), rows=16)


@pytest.fixture(scope="module")
def gpu() -> CompiledStep:
    return compiled("h100:1x8", MeshConfig(data=1, fsdp=None), rows=16)


@pytest.mark.parametrize("target", ["tpu", "gpu"])
def test_memory_is_told_apart(target, request):
    step = request.getfixturevalue(target)
    memory = device_memory(step, find_topology({"tpu": "v5e:2x4", "gpu": "h100:1x8"}[target]).chip)
    assert memory.fits
    assert memory.optimizer == pytest.approx(2 * memory.parameters, rel=1e-4)
    assert (LAYERS, 2, TOKENS, WIDTH) in {array.shape for array in saved_activations(step)}
    assert largest_buffer(step.text).operation


@pytest.mark.parametrize("topology", ["v5e:2x2", "h100:1x4"])
def test_offloaded_tensors_are_on_the_host_and_as_large_as_the_estimate(topology):
    tensors = ("layer_input=offload", "mlp_hidden=offload")
    here = find_topology(topology)
    step = compiled(topology, MeshConfig(data=1, fsdp=4), rows=16, remat_tensors=tensors)
    found = device_memory(step, here.chip)
    estimated = estimate(step.experiment, dict(step.mesh.shape), here.chip).memory
    assert found.host == estimated.host == (0, LAYERS * 4 * TOKENS * (WIDTH + MLP) * 2)
    stacked = {(LAYERS, 4, TOKENS, WIDTH), (LAYERS, 4, TOKENS, MLP)}
    assert not stacked & {array.shape for array in saved_activations(step)}


@pytest.mark.parametrize("topology", ["v5e:2x2", "h100:1x4"])
def test_offloaded_moments_are_on_the_host_and_not_on_the_device(topology):
    here, experiment = find_topology(topology), llama(MeshConfig(data=1, fsdp=4), rows=16)
    offloading = replace(experiment, optimizer=replace(experiment.optimizer, offload=True))
    kept, offloaded = (device_memory(compile_step(one, here), here.chip) for one in (experiment, offloading))
    # TPUs pad small arrays.
    assert offloaded.host.state == pytest.approx(kept.optimizer - offloaded.optimizer, rel=1e-3)
    assert offloaded.host.activations == 0
    # The moments of one layer at a time come back for the update.
    assert offloaded.total < kept.total - 0.2 * offloaded.host.state


def test_cudnn_attention_is_replaced_and_that_is_said(gpu):
    (line,) = gpu.replaced
    assert line.startswith("attention: cuDNN's kernel cannot be compiled")


def test_tpu_attention_is_the_real_one(tpu):
    assert tpu.replaced == ()
    assert "splash" in tpu.text


@pytest.mark.parametrize(("target", "topology"), [("tpu", "v5e:2x4"), ("gpu", "h100:1x8")])
def test_compiling_takes_as_long_for_96_layers_as_for_12(target, topology, request):
    request.getfixturevalue(target)  # what a process does once has been done
    few, many = (
        compiled(topology, MeshConfig(data=1, fsdp=None), rows=16, num_layers=layers) for layers in (12, 96)
    )
    assert many.compile_cpu_seconds < 1.2 * few.compile_cpu_seconds
    assert sum(each.times for each in large(many)) > 7 * sum(each.times for each in large(few))


def test_a_slice_sends_a_part_of_the_gradients_to_the_others():
    slices = 2
    step = compiled("v5p:2x2x1", MeshConfig(data=None, fsdp=4), rows=16, slices=slices)
    found = large(step)
    sends = [each for each in found if each.across_slices]
    assert sends
    assert {(each.kind, each.axes, each.group) for each in sends} == {("send", ("data",), slices)}
    # The gradients of all layers and of both tables, in float32, once a step; a device has a quarter of them.
    layer = WIDTH * (2 * 8 * 128 + 2 * 4 * 128 + 3 * MLP)
    gradients = 4 * (LAYERS * layer + 2 * VOCABULARY * WIDTH)
    assert sum(e.times * e.num_bytes for e in sends) == pytest.approx(gradients / 4, rel=0.02)


def test_a_step_that_no_tpu_holds_is_too_large():
    with pytest.raises(TooLargeError) as caught:
        compiled("v5e:1x1", MeshConfig(), rows=256, remat="none", attention="xla", num_layers=2)
    assert caught.value.needed > caught.value.limit > 15 * 2**30


@pytest.mark.parametrize(
    "name", ["v4:2x2x1", "v6e:2x2", "tpu7x:2x2x1", "v5e:1x1", "a100:1x2", "h200:1x2", "b200:1x2"]
)
def test_every_chip_has_a_compiler(name):
    topology = find_topology(name)
    assert topology.chip is not None
    assert topology.chip.name == name.partition(":")[0]
    kind = topology.devices[0].device_kind
    assert any(word in kind for word in topology.chip.kinds)


@pytest.mark.parametrize(("name", "devices_a_chip"), [("v4", 1), ("v5p", 1), ("tpu7x", 2)])
def test_a_device_is_what_the_table_of_chips_describes(name, devices_a_chip):
    topology = find_topology(f"{name}:2x2x2")
    assert len(topology.devices) == 8 * devices_a_chip
    assert topology.devices_a_host == 4 * devices_a_chip
    assert ("devices a chip" in topology.description) == (devices_a_chip > 1)
    assert topology.chip is not None
    rows, changes = 2048 * len(topology.devices), dict(remat="none", attention="xla", num_layers=2)
    large = llama(MeshConfig(data=None), rows, **changes)
    with pytest.raises(TooLargeError) as caught:
        compile_step(large, topology)
    assert caught.value.limit == pytest.approx(topology.chip.memory_bytes, rel=1e-3)


FAST = ("--model.dtype", "bfloat16", "--data.sequence-length", "128")


def start(*arguments: str, cwd: Path) -> subprocess.Popen:
    program = "from flaxmill.train.command_line import main; main()"
    env = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_planners_at_once_work_and_print_nothing_else(tmp_path):
    command = ("plan", "gpt_tiny", "--topology", "v5e:2x2", *FAST)
    both = [start(*command, cwd=tmp_path) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=600)
        assert (process.returncode, err) == (0, "")
        assert out.startswith("gpt_tiny on v5e:2x2 (data=4 fsdp=1 tensor=1) fits: ")


def test_a_plan_for_gpus_that_does_not_fit_checks_its_cheapest_proposal(tmp_path):
    rows = ("--batch-size", "65536")
    process = start("plan", "gpt_tiny", "--topology", "a100:1x1", *FAST, *rows, cwd=tmp_path)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (1, "")
    assert "does not fit: " in out
    assert "compiled: " in out


def test_training_on_a_cpu_is_as_silent_as_without_the_compilers(tmp_path):
    process = start("train", "gpt_tiny", "--steps", "2", "--run-dir", "run", cwd=tmp_path)
    _, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, "")


def test_planned_memory_is_what_the_process_takes(tmp_path):
    """GPT-2 on eight simulated devices: the plan is within 10% of what a process grows by."""
    script = Path(__file__).parents[2] / "support" / "measured_memory.py"
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "2", "XLA_FLAGS": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    planned, grown = map(float, done.stdout.split())
    assert grown == pytest.approx(planned, rel=0.1)
