"""Maps every parameter, layer by layer, to its tensor in a file."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from flaxmill.model.config import ModelConfig, encoder_config
from flaxmill.model.families.stored_tensors import StoredTensor, TensorMap, stored_shape
from flaxmill.model.functional import abstract_params, logical_axes
from flaxmill.model.layer_plan import layer_slots
from flaxmill.model.params import LeafPath, flatten, group_of


class Place(NamedTuple):
    """Where a file keeps one layer of a parameter, one expert of it if it has several, or the whole parameter
    if it is not stacked."""

    name: str
    stored: StoredTensor
    shape: tuple[int, ...]
    """Our shape, for one layer and expert, and with the true vocabulary."""
    stored_shape: tuple[int, ...]
    """The file's shape; the whole tensor's where it is fused."""


class Leaf(NamedTuple):
    """One parameter and the places of its layers, and of their experts, in order."""

    path: LeafPath
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    places: tuple[Place, ...]

    @property
    def num_stacked(self) -> int:
        """The leading dimensions along which each entry has a place of its own: layers, and experts."""
        if group_of(self.path) is None:
            return 0
        return 2 if self.places[0].stored.is_of_expert else 1

    def index_of(self, number: int) -> tuple[int, ...]:
        """Where along the leading dimensions the place of this number belongs."""
        stacked = self.shape[: self.num_stacked]
        return tuple(int(index) for index in np.unravel_index(number, stacked)) if stacked else ()


def leaves(config: ModelConfig, tensors: TensorMap) -> list[Leaf]:
    """All parameters of a model with their places in a file of these tensors."""
    axes = flatten(logical_axes(config))
    depths = _depths(config)
    return [
        _leaf(config, tensors, path, value.shape, axes[path], depths)
        for path, value in flatten(abstract_params(config)).items()
    ]


def stored_shapes(parameters: Iterable[Leaf]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a file that holds these parameters, sorted by name."""
    return dict(sorted((place.name, place.stored_shape) for leaf in parameters for place in leaf.places))


def tensor_key(path: LeafPath) -> str:
    """A parameter's key in a TensorMap."""
    group = group_of(path)
    return "/".join(path if group is None else (*group[:-1], "layers", *path[len(group) :]))


def _depths(config: ModelConfig) -> dict[LeafPath, list[int]]:
    """For each group the numbers of its layers within their stack."""
    stacks: dict[LeafPath, ModelConfig] = {(): config}
    if config.encoder_layers is not None:
        stacks["encoder",] = encoder_config(config)
    depths: dict[LeafPath, list[int]] = {}
    for prefix, stack in stacks.items():
        for depth, (group, _) in enumerate(layer_slots(stack)):
            depths.setdefault((*prefix, group), []).append(depth)
    return depths


def _leaf(
    config: ModelConfig,
    tensors: TensorMap,
    path: LeafPath,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    depths: dict[LeafPath, list[int]],
) -> Leaf:
    stored = tensors[tensor_key(path)]
    assert config.vocab_size is not None
    sizes = [config.vocab_size if axis == "vocab" else size for axis, size in zip(axes, shape, strict=True)]
    group = group_of(path)
    num_experts = sizes[1] if stored.is_of_expert else 1
    one = tuple(sizes if group is None else sizes[2:] if stored.is_of_expert else sizes[1:])
    whole = stored_shape(stored, path, one)
    layers = [0] if group is None else depths[group]
    names = [stored.in_layer(layer, expert) for layer in layers for expert in range(num_experts)]
    return Leaf(path, shape, axes, tuple(Place(name, stored, one, whole) for name in names))
