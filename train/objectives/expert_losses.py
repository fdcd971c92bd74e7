"""Losses that keep the experts of a model in use, and the share of the tokens that each expert gets."""

# E experts

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.model.config import ModelConfig
from flaxmill.model.layer_plan import layers_with_experts
from flaxmill.model.layers.router import RoutingSums
from flaxmill.model.transformer import Batch
from flaxmill.sharding.local_rows import sum_over_rows

CHOICES = "expert_choices"
"""The name of the sums [E]; the others are scalars."""


def expert_sums(config: ModelConfig, heard: list[RoutingSums]) -> dict[str, jax.Array]:
    """Sums over this device's tokens that `expert_losses` divides; {} for a model without experts.

    The load-balance loss is E * sum_e f_e p_e, where f and p are means over all layers and tokens together, f
    of how often a token chose an expert and p of its probability, as in transformers (Fedus et al. 2022, eq.
    4 to 6, for one choice). f has no gradient and counts the microbatch on all devices; so the loss is linear
    in a device's p.
    """
    if not heard:
        return {}
    assert config.num_experts is not None
    choices_E, probabilities_E, log_z_squared = jax.tree.map(lambda *sums: sum(sums), *heard)
    choices_E = jax.lax.stop_gradient(choices_E)
    chosen_E = sum_over_rows(choices_E)
    shares_E = config.experts_per_token * chosen_E / jnp.maximum(chosen_E.sum(), 1)
    num_layers = layers_with_experts(config)
    balance = config.num_experts * (shares_E * probabilities_E).sum() / num_layers
    z = log_z_squared / num_layers
    return {
        "load_balance": balance,
        "router_z": z,
        "expert_terms": config.load_balance_loss * balance + config.router_z_loss * z,
        CHOICES: choices_E,
    }


def counted_experts(config: ModelConfig) -> dict[str, Any]:
    """The sums that a model's experts add to those of an objective, in their shapes, with any values."""
    if config.num_experts is None:
        return {}
    scalars = ("load_balance", "router_z", "expert_terms", "real_tokens")
    return {**dict.fromkeys(scalars, 1.0), CHOICES: np.ones(config.num_experts)}


def real_tokens(batch: Batch) -> jax.Array:
    """How many tokens are not padding: what the sums of experts are divided by, in float32."""
    is_real_BT = batch["documents"] if "documents" in batch else batch["mask"]
    return (is_real_BT > 0).sum().astype(jnp.float32)


def expert_losses(numerators: dict[str, Any], denominators: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The weighted losses' part of the total, and what is reported: both losses without their weights, and
    `expert_load` [E], each expert's share of all choices."""
    tokens = jnp.maximum(denominators["real_tokens"], 1)
    choices_E = numerators[CHOICES]
    reported = {
        "load_balance_loss": numerators["load_balance"] / tokens,
        "router_z_loss": numerators["router_z"] / tokens,
        "expert_load": choices_E / jnp.maximum(choices_E.sum(), 1),
    }
    return numerators["expert_terms"] / tokens, reported
