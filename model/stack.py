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
from flaxmill.model.layer_plan import layer_pattern, plan_layers
from flaxmill.model.layers.dropout import stacked_keys
from flaxmill.model.layers.norms import Norm
from flaxmill.model.layers.positions import RelativeBias, Turns, document_lengths, rotary_turns
from flaxmill.model.layers.visibility import Visibility
from flaxmill.model.rematerialisation import remat_policy
from flaxmill.sharding.local_rows import weights_are_split
from flaxmill.sharding.local_tokens import num_parts, places_in_row
from flaxmill.sharding.rules import from_residual

Batch = dict[str, jax.Array]


class Stack(nnx.Module):
    """Layers and the final norm; parameters of a group of layers are stacked along a leading L."""

    def __init__(self, key: jax.Array, config: ModelConfig, *, crosses: bool = False) -> None:
        """`crosses`: the layers also attend to an encoder's output."""
        self.config = config
        plan = plan_layers(config)
        bias_key, layers_key = jax.random.split(key)
        keys = jax.random.split(layers_key, config.num_layers)
        first, repeated, last = jnp.split(keys, [len(plan.first), config.num_layers - len(plan.last)])

        def make(keys: jax.Array, attention_norm: bool = True) -> Layer | None:
            layer = lambda key: Layer(key, config, attention_norm=attention_norm, crosses=crosses)  # noqa: E731
            return jax.vmap(layer)(keys) if len(keys) else None

        self.first_layers = make(first, config.first_attention_norm)
        self.layers = make(repeated)
        self.last_layers = make(last)
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
        x_BTD = self._run_layers(x_BTD, inputs, keys_B)
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
        )
        turns: dict[LayerKind, Turns] = {
            kind: rotary_turns(config, kind, positions_BT, lengths_BT) for kind in sorted(kinds)
        }
        return AttentionInputs(visible, turns, encoded_BSD, encoded_documents_BS)

    def _run_layers(self, x_BTD: jax.Array, inputs: AttentionInputs, keys_B: jax.Array | None) -> jax.Array:
        config, plan = self.config, plan_layers(self.config)
        first = repeated = last = None
        if keys_B is not None:
            keys = stacked_keys(keys_B, config.num_layers)
            first, repeated, last = jnp.split(keys, [len(plan.first), config.num_layers - len(plan.last)])
        unroll = functools.partial(_run_each, config, inputs)
        x_BTD = unroll(x_BTD, self.first_layers, first, plan.first)
        if config.scan_layers and self.layers is not None:
            x_BTD = _scan_periods(config, inputs, x_BTD, self.layers, repeated, plan.period)
        else:
            x_BTD = unroll(x_BTD, self.layers, repeated, plan.period * plan.num_periods)
        return unroll(x_BTD, self.last_layers, last, plan.last)


def _places(batch: Batch, num_tokens: int) -> jax.Array | None:
    """int32 [T]: which token of its row each token is; None: all of them are here, in order."""
    if "places" in batch:
        return batch["places"][0]  # the order is the same in all rows
    return places_in_row(num_tokens) if num_parts() > 1 else None


def _run_each(
    config: ModelConfig,
    inputs: AttentionInputs,
    x_BTD: jax.Array,
    layers: Layer | None,
    keys: jax.Array | None,
    kinds: tuple[LayerKind, ...],
    in_scan: bool = False,
) -> jax.Array:
    """Run the layers one after another, each compiled separately."""
    for index, kind in enumerate(kinds):
        layer, key = jax.tree.map(lambda leaf, index=index: leaf[index], (layers, keys))
        run = _remat(lambda layer, x, key, kind=kind: layer(x, inputs, kind, key), config, in_scan)
        x_BTD = run(layer, x_BTD, key)
    return x_BTD


def _scan_periods(
    config: ModelConfig,
    inputs: AttentionInputs,
    x_BTD: jax.Array,
    layers: Layer,
    keys: jax.Array | None,
    period: tuple[LayerKind, ...],
) -> jax.Array:
    """Loop over periods: the compiled program does not grow with depth, and windows stay static."""

    def run(x_BTD: jax.Array, layers_and_keys: tuple[Layer, jax.Array | None]):
        return _run_each(config, inputs, x_BTD, *layers_and_keys, period, in_scan=True), None

    split = lambda leaf: leaf.reshape(-1, len(period), *leaf.shape[1:])  # noqa: E731
    return jax.lax.scan(run, x_BTD, jax.tree.map(split, (layers, keys)))[0]


def _remat(run: Callable[..., Any], config: ModelConfig, in_scan: bool) -> Callable[..., Any]:
    """Choose what is stored for the backward pass; prevent_cse is only for unrolled layers."""
    if config.remat == "none" and not weights_are_split():
        return run
    return functools.partial(jax.checkpoint, prevent_cse=not in_scan, policy=remat_policy(config))(run)
