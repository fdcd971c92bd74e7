"""Optimizers that look at whole tensors, applied to stacked layers one by one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from flaxmill.model.layer_plan import LAYER_GROUPS
from flaxmill.model.params import merge


class PerLayerState(NamedTuple):
    """State of each stacked group (with a leading layer dim), by name, and of all other leaves."""

    stacked: dict[str, Any]
    single: Any


def per_layer(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Apply `inner` to each layer of the stacked groups as if the layers were separate tensors."""

    def init(params: optax.Params) -> PerLayerState:
        stacked, single = _split(params)
        init_layers = _over_layers(inner.init)
        return PerLayerState(
            {name: init_layers(group) for name, group in stacked.items()}, inner.init(single)
        )

    def update(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, PerLayerState]:
        assert isinstance(state, PerLayerState)
        assert params is not None, "the transformations used per layer all need params"
        stacked_updates, single_updates = _split(updates)
        stacked_params, single_params = _split(params)
        update_layers = _over_layers(inner.update)
        updated, single_state = inner.update(single_updates, state.single, single_params)
        states = {}
        for name, group in stacked_updates.items():
            scaled, states[name] = update_layers(group, state.stacked[name], stacked_params[name])
            updated = merge(updated, scaled)
        return updated, PerLayerState(states, single_state)

    return optax.GradientTransformation(init, update)


def _split(tree: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The stacked groups by name, each nested as it was in the tree, and the tree without them.

    Groups have different depths, so each is mapped over separately. Paths stay whole, because they place an
    optimizer's state where the parameter of that path lives.
    """
    stacked, single = {}, {}
    for name, value in tree.items():
        if name in LAYER_GROUPS:
            stacked[name] = {name: value}
        elif isinstance(value, dict):
            below, single[name] = _split(value)
            stacked |= {f"{name}_{inner}": {name: group} for inner, group in below.items()}
        else:
            single[name] = value
    return stacked, single


def _over_layers(function: Callable) -> Callable:
    mapped = jax.vmap(function)
    # vmap refuses trees without a single array, such as a group with all its leaves masked.
    return lambda tree, *rest: mapped(tree, *rest) if jax.tree.leaves(tree) else function(tree, *rest)
