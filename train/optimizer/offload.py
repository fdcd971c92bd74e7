"""Moments that wait in the memory of the host between updates, where they take none of the devices'.

ZeRO-Offload (Ren et al. 2021) also computes the update on the host. Here devices fetch the moments and
compute it, one layer after the other, so that they hold the moments of one layer at a time. Only the place of
the moments changes.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from flaxmill.model.params import LeafPath, flatten, group_of, names_of, unflatten
from flaxmill.sharding.memory import HOST_MEMORY, fetch, put_where

Path = tuple[Any, ...]
"""JAX's path to a leaf."""


class Offloaded(optax.GradientTransformationExtraArgs):
    """An optimizer with its moments in the memory of the host between updates.

    Its checkpoints are those of the same optimizer without it. `update` takes `finite` too, since it alone
    has the old moments at hand: they stay where that is False.
    """

    __slots__ = ()


class _Part(NamedTuple):
    """Some of the weights: their gradients or updates, the optimizer's state for them, and themselves."""

    updates: Any
    state: Any
    params: Any


def moment_sharding(optimizer: optax.GradientTransformation, of_param: NamedSharding) -> NamedSharding:
    """Where a moment lives whose parameter lives in `of_param`."""
    return of_param.with_memory_kind(HOST_MEMORY) if isinstance(optimizer, Offloaded) else of_param


def find_param(path: Path, leaf: Any, shapes: Mapping[LeafPath, tuple[int, ...]]) -> LeafPath | None:
    """The parameter that a leaf of the optimizer's state is a moment of; None for counts and the like."""
    names = names_of(path)
    return next((names[i:] for i in range(len(names)) if shapes.get(names[i:]) == leaf.shape), None)


def layer_by_layer(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Apply `inner`, which takes stacked layers for separate tensors, to one layer after the other."""
    inner = optax.with_extra_args_support(inner)

    def update(
        updates: Any, state: Any, params: Any = None, *, finite: jax.Array | bool = True
    ) -> tuple[Any, Any]:
        assert params is not None, "they say which leaves are moments"
        leaves: dict[Path, jax.Array] = {}
        done: dict[LeafPath, jax.Array] = {}
        num_draws = 0
        for group, part in _split(inner, _Part(updates, state, params)):
            if group is None:
                new, num_layers = _update(inner, part, finite, num_draws), 1
            else:
                new, num_layers = _over_layers(inner, part, finite, num_draws)
            num_draws += num_layers
            done |= flatten(new.updates)
            leaves |= dict(jax.tree_util.tree_leaves_with_path(new.state))
        order = [path for path, _ in jax.tree_util.tree_leaves_with_path(state)]
        return unflatten(done), jax.tree.unflatten(jax.tree.structure(state), [leaves[p] for p in order])

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _split(inner: optax.GradientTransformation, whole: _Part) -> Iterator[tuple[LeafPath | None, _Part]]:
    """The weights of each group of stacked layers, and the others together as None."""
    leaves = dict(jax.tree_util.tree_leaves_with_path(whole.state))
    updates, params = flatten(whole.updates), flatten(whole.params)
    paths_of: dict[LeafPath | None, list[LeafPath]] = {}
    for path in params:
        paths_of.setdefault(group_of(path), []).append(path)
    for group, paths in paths_of.items():
        of_group = unflatten({path: params[path] for path in paths})
        shapes = jax.eval_shape(inner.init, of_group)
        state = jax.tree_util.tree_map_with_path(lambda path, _: leaves[path], shapes)
        yield group, _Part(unflatten({path: updates[path] for path in paths}), state, of_group)


def _over_layers(
    inner: optax.GradientTransformationExtraArgs, part: _Part, finite: jax.Array | bool, draw: int
) -> tuple[_Part, int]:
    """The part after the update, and its number of layers."""
    shapes = {path: leaf.shape for path, leaf in flatten(part.params).items()}
    is_moment = jax.tree_util.tree_map_with_path(
        lambda path, leaf: find_param(path, leaf, shapes) is not None, part.state
    )
    num_layers = next(iter(shapes.values()))[0]

    def one(layer: jax.Array, done: _Part) -> _Part:
        def cut(x: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, layer, 1)

        def put(whole: jax.Array, x: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(whole, x, layer, 0)

        updates, params = jax.tree.map(cut, (done.updates, part.params))
        # A count is the same for all layers, and goes up once.
        state = jax.tree.map(lambda m, x, old: cut(x) if m else old, is_moment, done.state, part.state)
        new = _update(inner, _Part(updates, state, params), finite, draw + layer)
        state = jax.tree.map(lambda m, x, new: put(x, new) if m else new, is_moment, done.state, new.state)
        return _Part(jax.tree.map(put, done.updates, new.updates), state, None)

    return jax.lax.fori_loop(0, num_layers, one, part._replace(params=None)), num_layers


def _update(
    inner: optax.GradientTransformationExtraArgs, part: _Part, finite: jax.Array | bool, draw: jax.Array | int
) -> _Part:
    old = fetch(part.state)
    updates, new = inner.update(part.updates, old, part.params, draw=draw)
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
    return _Part(updates, jax.tree.map(put_where, part.state, kept), part.params)
