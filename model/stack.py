"""A stack of layers, run as its plan says: repeated layers in a scan, the rest unrolled."""

# B batch, T tokens, D model, L layers of a group, P layers of a period

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import LayerKind
from flaxmill.model.layer import AttentionInputs, Layer
from flaxmill.model.layer_plan import LAYER_GROUPS, PlannedLayer, layer_pattern, plan_layers, planned_layers
from flaxmill.model.layers.dropout import stacked_keys
from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.model.layers.norms import Norm
from flaxmill.model.layers.positions import RelativeBias, Turns, document_lengths, rotary_turns
from flaxmill.model.layers.router import RoutingSums, no_routing, tell_routing
from flaxmill.model.layers.visibility import Visibility
from flaxmill.model.pipeline import Rows, Turn, run_pipeline, schedule
from flaxmill.model.rematerialisation import remat_policy
from flaxmill.sharding.local_rows import weights_are_split
from flaxmill.sharding.local_stages import num_stages
from flaxmill.sharding.local_tokens import num_parts, places_in_row
from flaxmill.sharding.rules import from_residual

Batch = dict[str, jax.Array]
Carry = tuple[jax.Array, RoutingSums | None]
"""Hidden states [B,T,D], and what the routers have done so far."""
Stacks = tuple[Layer | None, Layer | None]
"""Layers stacked along L: those without experts, and those with them."""


class Stack(nnx.Module):
    """Layers and the final norm; parameters of a group of layers are stacked along a leading L."""

    def __init__(self, key: jax.Array, config: ModelConfig, *, crosses: bool = False) -> None:
        """`crosses`: the layers also attend to an encoder's output."""
        self.config = config
        bias_key, layers_key = jax.random.split(key)
        keys = jax.random.split(layers_key, config.num_layers)
        depths: dict[str, list[int]] = {group: [] for group in LAYER_GROUPS}
        for depth, (group, _) in enumerate(plan_layers(config).slots()):
            depths[group].append(depth)

        def make(group: str, attention_norm: bool = True) -> Layer | None:
            if not depths[group]:
                return None
            parts = {"attention_norm": attention_norm, "crosses": crosses}
            parts["has_experts"] = planned_layers(config)[depths[group][0]].has_experts
            return jax.vmap(lambda key: Layer(key, config, **parts))(keys[jnp.array(depths[group])])

        self.first_layers = make("first_layers", config.first_attention_norm)
        self.dense_layers, self.layers = make("dense_layers"), make("layers")
        self.last_dense_layers, self.last_layers = make("last_dense_layers"), make("last_layers")
        self.final_norm = Norm(config) if config.norm_position == "pre" else None
        relative = config.positions == "relative"
        self.relative_bias = RelativeBias(bias_key, config) if relative else None

    def run(
        self,
        x_BTD: jax.Array,
        batch: Batch,
        keys_B: jax.Array | None,
        encoded_BSD: jax.Array | None = None,
        encoded_documents_BS: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states [B,T,D] of embedded tokens; `batch` holds their documents and positions."""
        inputs = self.attention_inputs(batch, encoded_BSD, encoded_documents_BS)
        x_BTD, routed = self._run_layers(x_BTD, inputs, batch, keys_B)
        if routed is not None:
            tell_routing(routed)
        return from_residual(x_BTD if self.final_norm is None else self.final_norm(x_BTD))

    def attention_inputs(
        self, batch: Batch, encoded_BSD: jax.Array | None, encoded_documents_BS: jax.Array | None
    ) -> AttentionInputs:
        """What the layers' attention depends on, from a batch's documents and positions."""
        config = self.config
        assert config.causal is not None, "causal is resolved before the model is made"
        positions_BT, num_tokens = batch["positions"], batch["positions"].shape[1]
        kinds: set[LayerKind] = set(layer_pattern(config)) if config.positions == "rotary" else set()
        by_length = config.turns_by_length
        lengths_BT = document_lengths(batch["documents"], positions_BT) if by_length else None
        visible = Visibility(
            documents=batch["documents"],
            causal=batch["causal"].astype(bool) if "causal" in batch else config.causal,
            prefix=batch.get("prefix"),
            bias=self.relative_bias(num_tokens, num_tokens) if self.relative_bias else None,
            places=_places(batch, num_tokens),
            zigzag="places" in batch,
        )
        turns: dict[LayerKind, Turns] = {
            kind: rotary_turns(config, kind, positions_BT, lengths_BT) for kind in sorted(kinds)
        }
        return AttentionInputs(visible, turns, encoded_BSD, encoded_documents_BS)

    def _run_layers(
        self, x_BTD: jax.Array, inputs: AttentionInputs, batch: Batch, keys_B: jax.Array | None
    ) -> Carry:
        config, plan = self.config, plan_layers(self.config)
        first = repeated = last = None
        if keys_B is not None:
            keys = stacked_keys(keys_B, config.num_layers)
            first, repeated, last = jnp.split(keys, [len(plan.first), config.num_layers - len(plan.last)])
        unroll = functools.partial(_run_each, config, inputs)
        carry: Carry = x_BTD, no_routing(config, sum_dtype(x_BTD))
        carry = unroll(carry, (self.first_layers, self.first_layers), first, plan.first)
        stacks = self._stacks(self.dense_layers, self.layers)
        if num_stages() > 1 and plan.num_periods:
            carry = self._run_stages(carry, batch, stacks, keys_B)
        elif config.scan_layers and plan.num_periods:
            carry = _scan_periods(config, inputs, carry, stacks, repeated, plan.num_periods)
        else:
            carry = unroll(carry, stacks, repeated, plan.period * plan.num_periods)
        return unroll(carry, self._stacks(self.last_dense_layers, self.last_layers), last, plan.last)

    def _run_stages(self, carry: Carry, batch: Batch, stacks: Stacks, keys_B: jax.Array | None) -> Carry:
        """The repeated layers as a pipeline, in which each device has some of them."""
        config, plan = self.config, plan_layers(self.config)
        num_periods = plan.num_periods // (num_stages() * schedule().num_rounds)
        num_layers = len(plan.period) * num_periods

        def run_turn(x_bTD: jax.Array, rows: Rows, layers: Stacks, turn: Turn) -> Carry:
            keys = None
            if rows.keys is not None:
                first = len(plan.first) + turn.number * num_layers
                keys = stacked_keys(rows.keys, config.num_layers)
                keys = jax.lax.dynamic_slice_in_dim(keys, first, num_layers)
            inputs = self.attention_inputs(rows.batch, None, None)
            start = x_bTD, no_routing(config, sum_dtype(x_bTD))
            return _scan_turn(config, inputs, start, layers, keys, turn.round, num_periods)

        x_BTD, routed = carry
        x_BTD, sums = run_pipeline(run_turn, x_BTD, Rows(batch, keys_B), stacks, config.dtype)
        return x_BTD, None if routed is None else jax.tree.map(jnp.add, routed, sums)

    def _stacks(self, dense: Layer | None, layers: Layer | None) -> Stacks:
        return (layers, None) if self.config.num_experts is None else (dense, layers)


def _places(batch: Batch, num_tokens: int) -> jax.Array | None:
    """int32 [T]: which token of its row each token is; None: all of them are here, in order."""
    if "places" in batch:
        return batch["places"][0]  # the order is the same in all rows
    return places_in_row(num_tokens) if num_parts() > 1 else None


def _run_each(
    config: ModelConfig,
    inputs: AttentionInputs,
    carry: Carry,
    stacks: Stacks,
    keys: jax.Array | None,
    planned: tuple[PlannedLayer, ...],
    in_scan: bool = False,
    take: Callable[..., Layer] | None = None,
) -> Carry:
    """Run the layers one after another, each compiled separately.

    Args:
      take: takes a layer from its stack, by its index among these layers of its kind, inside of what is
        computed again; None: layers are stacked along the first dimension.
    """
    (x_BTD, routed), taken = carry, [0, 0]
    for number, (kind, has_experts) in enumerate(planned):
        key = jax.tree.map(lambda leaf, number=number: leaf[number], keys)
        stack, index = stacks[has_experts], taken[has_experts]
        taken[has_experts] += 1
        if take is None:
            given, find = jax.tree.map(lambda leaf, index=index: leaf[index], stack), lambda layer: layer
        else:
            given, find = stack, functools.partial(take, index=index)
        run = functools.partial(_run_one, inputs, kind, find)
        x_BTD, sums = _remat(run, config, in_scan)(given, x_BTD, key)
        routed = routed if sums is None else jax.tree.map(jnp.add, routed, sums)
    return x_BTD, routed


def _run_one(
    inputs: AttentionInputs,
    kind: LayerKind,
    find: Callable[..., Layer],
    given: Layer | None,
    x_BTD: jax.Array,
    key: jax.Array | None,
) -> tuple[jax.Array, RoutingSums | None]:
    """Run the layer that is found in what is given."""
    return find(given)(x_BTD, inputs, kind, key)


def _scan_periods(
    config: ModelConfig,
    inputs: AttentionInputs,
    carry: Carry,
    stacks: Stacks,
    keys: jax.Array | None,
    num_periods: int,
) -> Carry:
    """Loop over periods: the compiled program does not grow with depth, and windows stay static."""
    period = plan_layers(config).period

    def run(carry: Carry, stacks_and_keys: tuple[Stacks, jax.Array | None]):
        return _run_each(config, inputs, carry, *stacks_and_keys, period, in_scan=True), None

    split = lambda leaf: leaf.reshape(num_periods, -1, *leaf.shape[1:])  # noqa: E731
    return jax.lax.scan(run, carry, jax.tree.map(split, (stacks, keys)))[0]


def _scan_turn(
    config: ModelConfig,
    inputs: AttentionInputs,
    carry: Carry,
    stacks: Stacks,
    keys: jax.Array | None,
    number: jax.Array,
    num_periods: int,
) -> Carry:
    """Loop over the periods of one round of a pipeline; stacks are [R,l,...].

    Layers are taken inside of what is computed again, so that the backward pass keeps the stacks, which are
    there anyway, and not a copy of them for each turn.
    """
    period = plan_layers(config).period
    keys = None if keys is None else keys.reshape(num_periods, -1, *keys.shape[1:])

    def run(carry: Carry, place_and_keys: tuple[jax.Array, jax.Array | None]):
        place, keys = place_and_keys

        def take(stack: Layer | None, index: int) -> Layer:
            def at(leaf: jax.Array) -> jax.Array:
                return leaf[number, place * (leaf.shape[1] // num_periods) + index]

            return jax.tree.map(at, stack)

        return _run_each(config, inputs, carry, stacks, keys, period, True, take), None

    return jax.lax.scan(run, carry, (jnp.arange(num_periods), keys))[0]


def _remat(run: Callable[..., Any], config: ModelConfig, in_scan: bool) -> Callable[..., Any]:
    """Choose what is stored for the backward pass; prevent_cse is only for unrolled layers."""
    if config.remat == "none" and not weights_are_split():
        return run
    return functools.partial(jax.checkpoint, prevent_cse=not in_scan, policy=remat_policy(config))(run)
