"""Moments in the memory of the host: the same training, with less in the devices' memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launching import values_of
from small_steps import ROWS, random_rows, take_steps, tiny_model

from flaxmill.model.functional import abstract_params, init_params
from flaxmill.sharding.memory import HOST_MEMORY
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.sharding.placement import place_rows
from flaxmill.train.checkpoint.checkpoints import Checkpoints
from flaxmill.train.checkpoint.config import CheckpointConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.loop import train
from flaxmill.train.optimizer.config import OptimizerConfig
from flaxmill.train.optimizer.optimizers import make_optimizer
from flaxmill.train.state import abstract_state, init_state
from flaxmill.train.step import make_train_step

MESH = MeshConfig(data=2, fsdp=2)
# Fused otherwise, a moment may be rounded the other way, by 1.2e-7 of itself a step.
RELATIVE, ABSOLUTE = 1e-5, 1e-7


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        dict(name="adamw", freeze=("embed/*", "layers.1/*")),
        pytest.param(dict(name="adamw", bias_correction=False), marks=pytest.mark.slow),
        pytest.param(dict(name="lamb"), marks=pytest.mark.slow),
        pytest.param(dict(name="lion"), marks=pytest.mark.slow),
        pytest.param(dict(name="muon", layer_decay=0.9), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_training_is_the_same(settings):
    """The model has three groups of layers, and what belongs to none."""
    near = take_steps(tiny_model(), OptimizerConfig(**settings), mesh=MESH)
    far = take_steps(tiny_model(), OptimizerConfig(offload=True, **settings), mesh=MESH)
    assert jax.tree.structure(far.after.optimizer) == jax.tree.structure(near.after.optimizer)
    for found, expected in zip(jax.tree.leaves(far.after), jax.tree.leaves(near.after), strict=True):
        np.testing.assert_allclose(found, expected, rtol=RELATIVE, atol=ABSOLUTE)


@pytest.mark.slow
def test_moments_alone_live_on_the_host_and_are_there_again_after_a_step():
    mesh, config, settings = make_mesh(MESH), tiny_model(), OptimizerConfig(offload=True)
    optimizer = make_optimizer(settings, abstract_params(config))
    experiment = Experiment(model=config, optimizer=settings, mesh=MESH, batch_size=ROWS, steps=8)
    step = make_train_step(experiment, optimizer, mesh, None)
    with jax.set_mesh(mesh):
        state = init_state(config, optimizer, mesh, seed=0)
        for _ in range(2):
            kinds = {(leaf.ndim > 0, leaf.sharding.memory_kind) for leaf in jax.tree.leaves(state.optimizer)}
            assert kinds == {(True, HOST_MEMORY), (False, "device")}
            assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.params)} == {"device"}
            state, _ = step(state, place_rows(mesh, random_rows(0), ROWS))


@pytest.mark.slow
def test_what_one_memory_saved_is_restored_into_the_other(tmp_path):
    mesh, config, settings = make_mesh(MESH), tiny_model(), OptimizerConfig()
    near, far = (
        make_optimizer(dataclasses.replace(settings, offload=offload), abstract_params(config))
        for offload in (False, True)
    )
    with jax.set_mesh(mesh):
        for step, (writer, reader) in enumerate([(far, near), (near, far)], 1):
            state = init_state(config, writer, mesh, seed=step)
            wanted = abstract_state(config, reader, mesh)
            with Checkpoints(tmp_path / str(step), CheckpointConfig()) as checkpoints:
                checkpoints.save(step, state._asdict(), {})
                checkpoints.wait()
                restored = checkpoints.open(step).restore(wanted)
            for found, expected, place in zip(*map(jax.tree.leaves, (restored, state, wanted)), strict=True):
                np.testing.assert_array_equal(found, expected)
                assert found.sharding.memory_kind == place.sharding.memory_kind


@pytest.mark.slow
def test_a_step_that_is_not_finite_leaves_moments_as_they_were():
    params = init_params(tiny_model(), jax.random.key(0))
    optimizer = make_optimizer(OptimizerConfig(offload=True), params)
    gradients = jax.tree.map(jnp.ones_like, params)
    _, state = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    lost = jax.tree.map(lambda g: g * jnp.nan, gradients)
    _, kept = jax.jit(optimizer.update)(lost, state, params, finite=jnp.bool_(False))
    jax.tree.map(np.testing.assert_array_equal, kept, state)


@pytest.mark.slow
def test_a_step_on_a_bad_batch_saves_no_moments_on_the_host():
    """The step tells the optimizer, which alone sees the old ones."""

    def poisoned(seed):
        rows = random_rows(seed)
        return rows | {"weights": rows["weights"] * np.float32("nan" if seed == 1 else 1)}

    settings = OptimizerConfig(offload=True)
    before = take_steps(tiny_model(), settings, 1, mesh=MESH, make_rows=poisoned).after
    taken = take_steps(tiny_model(), settings, 2, mesh=MESH, make_rows=poisoned)
    assert [step["skipped"] for step in taken.metrics] == [False, True]
    jax.tree.map(np.testing.assert_array_equal, taken.after.optimizer, before.optimizer)
    jax.tree.map(np.testing.assert_array_equal, taken.after.params, before.params)


def test_low_moments_of_each_layer_are_rounded_by_draws_of_their_own():
    params = {"layers": {"mlp": {"up": {"kernel": jnp.full((3, 8, 64), 0.5)}}}}
    optimizer = make_optimizer(OptimizerConfig(offload=True, beta2=0.999, moment_dtype="bfloat16"), params)
    ones = jax.tree.map(jnp.ones_like, params)
    _, state = jax.jit(optimizer.update)(ones, optimizer.init(params), params)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert {leaf.dtype for leaf in moments} == {jnp.dtype(jnp.bfloat16)}
    for first, second, third in moments:
        assert (first != second).any()
        assert (second != third).any()


@pytest.mark.slow
def test_a_run_continues_with_moments_offloaded_or_no_longer(make_experiment, stop_after, tmp_path):
    """Steps 0 to 2 keep them on the devices, 3 to 5 on the host, 6 and 7 on the devices."""

    def run(name, *, offload=False, stop=None):
        settings = dataclasses.replace(make_experiment("causal").optimizer, offload=offload)
        directory = str(tmp_path / name)
        return train(make_experiment("causal", optimizer=settings, run_dir=directory), stop=stop)

    run("straight")
    run("moved", stop=stop_after(3))
    run("moved", offload=True, stop=stop_after(3))
    assert run("moved").step == 8
    found, expected = values_of(tmp_path / "moved"), values_of(tmp_path / "straight")
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=1e-5)


def test_adafactor_has_no_moments_to_offload():
    with pytest.raises(ValueError, match=r"offload=True has no meaning for optimizer.name=adafactor.*False"):
        OptimizerConfig(name="adafactor", offload=True)
