"""The step that is planned is the step that is trained, compiled without its data."""

import dataclasses
import os
from typing import Any

import jax
import numpy as np
import pytest
from small_tokenizers import directory_of, ours

from flaxmill.sharding.hardware.topologies import find_topology
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.caches import cache_directory
from flaxmill.train.compilation.compiled_step import (
    TooLargeError,
    _find_sizes,
    _held_stderr,
    compile_step,
    resolve_without_data,
)
from flaxmill.train.compilation.hlo_text import parse_program
from flaxmill.train.input_pipeline import make_train_batches, prepare_data
from flaxmill.train.optimizer.optimizers import make_optimizer
from flaxmill.train.plan import memory
from flaxmill.train.plan.memory import device_memory, largest_buffer, saved_activations
from flaxmill.train.plan.weights import state_bytes
from flaxmill.train.resolution import resolve
from flaxmill.train.state import abstract_state
from flaxmill.train.step import make_train_step


def instructions(text: str) -> dict[str, list]:
    """All of a program but the lines of code that it comes from."""
    return {
        name: [each._replace(attributes=each.op_name) for each in computation.values()]
        for name, computation in parse_program(text).computations.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["causal", "mlm_nsp"])
def test_the_planned_program_is_the_trained_one(objective, make_experiment):
    experiment = make_experiment(objective, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    planned = compile_step(experiment, find_topology("cpu:8"))
    dataset = prepare_data(experiment, cache_directory(), lambda line: None)
    real = resolve(experiment, dataset.tokenizer)
    mesh = make_mesh(real.mesh)
    optimizer = make_optimizer(real.optimizer, planned.state.params)
    batches = make_train_batches(dataset, real)
    with jax.set_mesh(mesh):
        step = make_train_step(real, optimizer, mesh, batches.max_predictions)
        arrays = {
            name: jax.ShapeDtypeStruct(
                values.shape, values.dtype, sharding=planned.batch.arrays[name].sharding
            )
            for name, values in batches.batch(0).items()
        }
        state = abstract_state(real.model, optimizer, mesh)
        trained: Any = step.lower(state, arrays, None).compile()
    assert instructions(trained.as_text()) == instructions(planned.text)
    assert planned.compile_cpu_seconds > 0
    assert planned.replaced == ()


@pytest.mark.slow
def test_the_state_of_a_plan_is_exact(make_experiment):
    experiment = make_experiment(mesh=MeshConfig(data=1, fsdp=8), model=dict(remat="full"))
    step = compile_step(experiment, find_topology("cpu:8"))
    found = device_memory(step, None)
    leaves = jax.tree.leaves((step.state.params, step.state.optimizer))
    state = sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in leaves)
    assert found.parameters + found.optimizer == state
    parts = found.parameters + found.optimizer + found.gradients + found.activations + found.temporary
    assert parts == found.total
    assert found.fits
    assert largest_buffer(step.text).array.num_bytes <= found.total


@pytest.mark.slow
def test_state_on_the_host_is_the_hosts_whatever_the_compiler_counts_it_as(make_experiment, monkeypatch):
    step = compile_step(make_experiment(mesh=MeshConfig(data=1, fsdp=8)), find_topology("cpu:8"))
    plain = device_memory(step, None)
    moved = lambda *given: state_bytes(*given)._replace(optimizer=0, on_host=plain.optimizer)  # noqa: E731
    monkeypatch.setattr(memory, "state_bytes", moved)
    misread = device_memory(step, None)
    rightly = step.memory._replace(
        arguments=step.memory.arguments - plain.optimizer, host_state=plain.optimizer
    )
    assert device_memory(step._replace(memory=rightly), None) == misread
    assert misread == plain._replace(
        optimizer=0, total=plain.total - plain.optimizer, host=(plain.optimizer, 0)
    )


@pytest.mark.slow
def test_activations_are_what_the_layers_keep(make_experiment):
    """With full remat a layer keeps its input alone: [layers, rows, tokens, width]."""
    model = dict(num_layers=6, dtype="float32", dropout=0.0)
    mesh, topology = MeshConfig(data=8), find_topology("cpu:8")
    full = compile_step(make_experiment(mesh=mesh, model=model | dict(remat="full")), topology)
    none = compile_step(make_experiment(mesh=mesh, model=model | dict(remat="none")), topology)
    assert (6, 2, 32, 32) in {array.shape for array in saved_activations(full)}
    few, many = (sum(a.num_bytes for a in saved_activations(step)) for step in (full, none))
    assert 0 < few < many / 5


def test_a_mesh_must_use_every_device(make_experiment):
    experiment = make_experiment(mesh=MeshConfig(data=2, fsdp=2))
    with pytest.raises(ValueError, match=r"^mesh\.data=2 \* mesh\.fsdp=2 is 4, and cpu:8 has 8 devices"):
        compile_step(experiment, find_topology("cpu:8"))


@pytest.mark.slow
def test_slices_of_the_topology_are_slices_of_the_mesh(make_experiment):
    experiment = make_experiment(mesh=MeshConfig(data=1, fsdp=None))
    step = compile_step(experiment, find_topology("cpu:4", num_slices=2))
    assert dict(step.mesh.shape) == {"data": 2, "stage": 1, "fsdp": 4, "expert": 1, "context": 1, "tensor": 1}


def test_the_size_of_a_tokenizer_that_is_here_is_read(make_experiment):
    experiment = make_experiment()
    data = dataclasses.replace(experiment.data, tokenizer=str(directory_of("gpt2") / "tokenizer.json"))
    found = resolve_without_data(dataclasses.replace(experiment, data=data))
    assert found.model.vocab_size == ours("gpt2").vocab_size


def test_a_tokenizer_of_unknown_size_needs_a_stated_vocabulary(make_experiment):
    experiment = make_experiment()
    data = dataclasses.replace(experiment.data, tokenizer="elsewhere/tokenizer.json")
    unknown = dataclasses.replace(experiment, data=data)
    with pytest.raises(ValueError, match=r"^no vocabulary size: .*give --model\.vocab-size"):
        resolve_without_data(unknown)
    model = dataclasses.replace(unknown.model, vocab_size=1000)
    assert resolve_without_data(dataclasses.replace(unknown, model=model)).model.vocab_size == 1000


@pytest.mark.parametrize(
    ("tokenizer", "size"), [("bpe", 400), ("bytes", 257)], ids=["trained", "bytes of which all are known"]
)
def test_the_vocabulary_is_as_large_as_the_tokenizer_will_be(tokenizer, size, make_experiment):
    experiment = make_experiment()
    data = dataclasses.replace(experiment.data, tokenizer=tokenizer)
    found = resolve_without_data(dataclasses.replace(experiment, data=data)).model.vocab_size
    assert found is not None
    assert size <= found <= size + 2


@pytest.mark.parametrize(
    ("message", "sizes"),
    [
        (
            "Out of memory: required for HLO temporaries (34.5G) exceeds available HBM (15.75G).",
            (int(34.5 * 2**30), int(15.75 * 2**30)),
        ),
        ("131.89G exceeds available HBM 95.73G", (int(131.89 * 2**30), int(95.73 * 2**30))),
        ("Used 20.00G of 15.48G hbm. Exceeded hbm capacity by", (20 * 2**30, int(15.48 * 2**30))),
        ("INTERNAL: something else", None),
    ],
)
def test_the_compilers_complaint_of_memory_is_read(message, sizes):
    assert _find_sizes(message) == sizes


def test_what_a_compiler_writes_is_shown_only_where_it_fails(capfd):
    with _held_stderr():
        os.write(2, b"noise\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(ZeroDivisionError), _held_stderr():
        assert os.write(2, b"the cause\n") // 0
    assert capfd.readouterr().err == "the cause\n"


def test_a_step_that_is_too_large_says_both_sizes():
    assert str(TooLargeError(3000, 2000)) == "the step needs 3,000 bytes a device, and 2,000 are there"
