"""The state and the weights of an experiment as each device of a mesh holds them, from shapes alone."""

import functools
import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, NamedSharding

from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import abstract_params, logical_axes
from flaxmill.model.params import flatten, group_of
from flaxmill.sharding.memory import HOST_MEMORY
from flaxmill.sharding.rules import PARAMETER_RULES, mesh_axes, num_shards, partition_spec
from flaxmill.train.optimizer.config import OptimizerConfig
from flaxmill.train.optimizer.freezing import choose_trainable
from flaxmill.train.optimizer.optimizers import make_optimizer
from flaxmill.train.state import state_shardings

Mesh = tuple[tuple[str, int], ...]
"""Names and sizes of a mesh's axes, outermost first."""

GATHERED = ("fsdp", "stage")
"""Axes that split parameters which products need whole."""
PERIODS = (("dense_layers",), ("layers",))
"""Where the layers are that repeat, which are those of a pipeline."""

Form = tuple[int, ...]


class StateBytes(NamedTuple):
    """Bytes of the state in the memory of one device, and of what its host keeps for it."""

    parameters: int
    optimizer: int
    trained: int
    """Of the parameters that are trained: as much as their gradients."""
    on_host: int
    """Of parameters and optimizer, in the memory of the host; the others leave it out."""


class HostMemory(NamedTuple):
    """Bytes that a host keeps for one of its devices at the peak of a step."""

    state: int = 0
    activations: int = 0

    @property
    def total(self) -> int:
        return self.state + self.activations


class Weight(NamedTuple):
    """One parameter; layers stacked in one array are one."""

    path: tuple[str, ...]
    num_layers: int | None
    """Layers that it holds; None: it belongs to no layer."""
    shape: tuple[int, ...]
    """What a device has once it is gathered over fsdp and stage, of one layer; of experts its own."""
    is_split: bool
    """Whether fsdp or stage splits it."""
    is_trained: bool
    is_table: bool
    """Whether its rows are the vocabulary's."""
    is_apart: bool = False
    """Whether each device along `expert` has others of its experts, which are never gathered."""
    in_stages: bool = False
    """Whether each stage of a pipeline has some of its layers whole."""

    @property
    def size(self) -> int:
        """Elements of `shape`."""
        return math.prod(self.shape)


@functools.lru_cache(maxsize=4096)
def state_bytes(model: ModelConfig, optimizer: OptimizerConfig, mesh: Mesh) -> StateBytes:
    """Exact, by the rules that training places the state with; raises ValueError as they do."""
    params = abstract_params(model)
    transform = make_optimizer(optimizer, params)
    abstract: Any = _abstract(mesh)  # a mesh without devices serves as well
    shardings = state_shardings(model, transform, abstract)
    trained, _ = choose_trainable(optimizer.freeze, params).split(params)
    of_trained, _ = choose_trainable(optimizer.freeze, params).split(shardings.params)
    of_optimizer = jax.eval_shape(transform.init, params)
    return StateBytes(
        _shard_bytes(params, shardings.params),
        _shard_bytes(of_optimizer, shardings.optimizer),
        _shard_bytes(trained, of_trained),
        _shard_bytes(params, shardings.params, on_host=True)
        + _shard_bytes(of_optimizer, shardings.optimizer, on_host=True),
    )


@functools.lru_cache(maxsize=1024)
def list_weights(model: ModelConfig, freeze: tuple[str, ...], mesh: Mesh) -> tuple[Weight, ...]:
    """Every parameter, as the products of a device need it."""
    params, axes_of, abstract = abstract_params(model), flatten(logical_axes(model)), _abstract(mesh)
    frozen = choose_trainable(freeze, params).frozen
    weights = []
    for path, leaf in flatten(params).items():
        axes = axes_of[path]
        partition_spec(axes, PARAMETER_RULES, abstract, leaf.shape)  # refuses what does not divide
        entries = [None if axis is None else mesh_axes(axis, PARAMETER_RULES, abstract) for axis in axes]
        names = [(entry,) if isinstance(entry, str) else entry or () for entry in entries]
        shards = [
            num_shards(tuple(name for name in each if name not in GATHERED), abstract) for each in names
        ]
        shape = tuple(length // parts for length, parts in zip(leaf.shape, shards, strict=True))
        num_layers = leaf.shape[0] if group_of(path) else None
        shape = shape if num_layers is None else shape[1:]
        is_split = any(abstract.shape[name] > 1 for each in names for name in each if name in GATHERED)
        in_stages = group_of(path) in PERIODS and abstract.shape.get("stage", 1) > 1
        is_apart = ("expert",) in names and abstract.shape["expert"] > 1
        is_table, is_trained = "vocab" in axes, path not in frozen
        weights.append(Weight(path, num_layers, shape, is_split, is_trained, is_table, is_apart, in_stages))
    return tuple(weights)


def form_of(shape: tuple[int, ...]) -> Form:
    """The lengths of an array's dimensions whatever their order: XLA transposes weights and adds dimensions
    of one."""
    return tuple(sorted(length for length in shape if length > 1))


def without_remat(model: ModelConfig) -> ModelConfig:
    """The model that keeps all: what does not depend on the policy is then computed once for all of them."""
    return replace(model, remat="none", remat_tensors=())


def _shard_bytes(shapes: Any, shardings: Any, on_host: bool = False) -> int:
    """Bytes of one device's shards that lie in its own memory, or of those in the memory of its host."""

    def count(leaf: Any, sharding: NamedSharding) -> int:
        if (sharding.memory_kind == HOST_MEMORY) != on_host:
            return 0
        return math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(count, shapes, shardings)))


def _abstract(mesh: Mesh) -> AbstractMesh:
    names, sizes = zip(*mesh, strict=True)
    return AbstractMesh(sizes, names)
