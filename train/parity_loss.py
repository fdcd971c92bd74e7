"""The losses that parity differentiates: training's own where it has the objective, plain ones elsewhere."""

# B batch, T tokens, D model, C classes

import jax
import jax.numpy as jnp
import optax

from flaxmill.model.apply import Params, apply
from flaxmill.model.config import ModelConfig
from flaxmill.model.transformer import Batch
from flaxmill.train.objectives import combine, denominators, numerators

OBJECTIVES = {"lm": "causal", "mlm": "mlm", "mlm_nsp": "mlm_nsp"}


def parity_loss(config: ModelConfig, params: Params, batch: Batch) -> jax.Array:
    """Scalar loss of a completed batch, as transformers defines it for the model's head.

    Labels are in the batch: `targets` and `weights` [B,T] of tokens, `labels` or `nsp_labels` [B],
    `start_positions` and `end_positions` [B] (an answer's ends compete among the real places of a row). A
    model without a head has half the mean squared distance of its hidden states to `distance_to` [B,T,D],
    plus half the mean square of what it pools.
    """
    if config.head in OBJECTIVES:
        objective = OBJECTIVES[config.head]
        # As in training, masked places are gathered before the head.
        places = None if config.head == "lm" else batch["tokens"].shape[1]
        sums = numerators(objective, config, params, batch, max_predictions=places)
        return combine(objective, 0.0, sums, denominators(objective, batch))["loss"]
    outputs = apply(config, params, batch)
    is_real_BT = batch["documents"] > 0
    if config.head == "qa":
        ends = ("start", "end")
        return sum((_end_loss(outputs, batch, is_real_BT, end) for end in ends), jnp.zeros(())) / 2
    if config.head == "none":
        return _distance(outputs, batch["distance_to"], is_real_BT)
    if config.head == "classification":
        return _nll(outputs["logits"], batch["labels"]).mean()
    nll_BT = _nll(outputs["logits"], batch["targets"])
    return (nll_BT * batch["weights"]).sum() / batch["weights"].sum()


def _end_loss(outputs: Batch, batch: Batch, is_real_BT: jax.Array, end: str) -> jax.Array:
    logits_BT = jnp.where(is_real_BT, outputs[f"{end}_logits"], -jnp.inf)
    return _nll(logits_BT, batch[f"{end}_positions"]).mean()


def _distance(outputs: Batch, distance_to_BTD: jax.Array, is_real_BT: jax.Array) -> jax.Array:
    squares_BTD = jnp.square(outputs["hidden"] - distance_to_BTD) * is_real_BT[..., None]
    loss = squares_BTD.sum() / is_real_BT.sum() / squares_BTD.shape[-1] / 2
    return loss + jnp.square(outputs["pooled"]).mean() / 2 if "pooled" in outputs else loss


def _nll(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
