"""The state that training carries from step to step, created directly with its sharding."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import abstract_params, init_params, logical_axes
from flaxmill.model.params import Params, flatten
from flaxmill.sharding.given_arguments import Given
from flaxmill.sharding.rules import parameter_sharding
from flaxmill.train.optimizer.offload import find_param, moment_sharding


class TrainState(NamedTuple):
    """float32 parameters, and the optimizer state of the trained ones alone; int32 scalars `step` (updates
    done) and `skipped`."""

    params: Params
    optimizer: Any
    step: jax.Array
    skipped: jax.Array


def init_state(
    config: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int
) -> TrainState:
    """A fresh state; every array is created as the shards that its devices hold."""
    with jax.set_mesh(mesh):
        return make_init(config, optimizer, mesh, seed)()


def make_init(
    config: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int
) -> Callable[[], TrainState]:
    """() -> a fresh state, compiled at its first call; call it on the mesh (`jax.set_mesh`)."""

    def init(seed: jax.Array) -> TrainState:
        params = init_params(config, jax.random.key(seed))
        return _state(params, optimizer)

    # Jitted with its shardings, no array is ever whole on one device.
    compiled = jax.jit(init, out_shardings=state_shardings(config, optimizer, mesh))
    return Given(compiled, mesh, seed=np.uint32(seed))


def start_state(
    config: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh, params: Params
) -> TrainState:
    """The state of step 0 with these parameters, which are donated, and a fresh optimizer."""
    shardings = state_shardings(config, optimizer, mesh)
    with jax.set_mesh(mesh):
        return jax.jit(lambda p: _state(p, optimizer), donate_argnums=0, out_shardings=shardings)(params)


def abstract_state(config: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state: what a restore is checked against."""
    shardings = state_shardings(config, optimizer, mesh)
    describe = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)  # noqa: E731
    return jax.tree.map(describe, _shapes(config, optimizer), shardings)


def state_shardings(config: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh) -> Any:
    """A TrainState with a NamedSharding for every array.

    Optimizer state shaped like a parameter is split as the parameter is; the rest (counts, factored moments)
    is small and lives whole on every device.
    """
    shapes = _shapes(config, optimizer)
    of_params = param_shardings(config, mesh)
    param_shapes = {path: leaf.shape for path, leaf in flatten(shapes.params).items()}
    by_path = flatten(of_params)
    whole = NamedSharding(mesh, PartitionSpec())

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        param = find_param(path, leaf, param_shapes)
        return whole if param is None else moment_sharding(optimizer, by_path[param])

    of_optimizer = jax.tree_util.tree_map_with_path(place, shapes.optimizer)
    shardings: Any = (of_params, of_optimizer, whole, whole)
    return TrainState(*shardings)


def param_shardings(config: ModelConfig, mesh: Mesh) -> Params:
    """A NamedSharding for every parameter; raises ValueError where a size does not divide."""
    place = lambda leaf, axes: parameter_sharding(mesh, axes, leaf.shape)  # noqa: E731
    return jax.tree.map(place, abstract_params(config), logical_axes(config))


def placed_params(config: ModelConfig, mesh: Mesh) -> Params:
    """Shapes, dtypes and shardings of the parameters."""
    place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)  # noqa: E731
    return jax.tree.map(place, abstract_params(config), param_shardings(config, mesh))


def _shapes(config: ModelConfig, optimizer: optax.GradientTransformation) -> TrainState:
    return jax.eval_shape(lambda params: _state(params, optimizer), abstract_params(config))


def _state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(params, optimizer.init(params), jnp.int32(0), jnp.int32(0))
