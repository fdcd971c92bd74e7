"""The losses that parity differentiates: training's own, and a distance for a model without a head."""

# B batch, T tokens, C classes, D model

import jax
import jax.numpy as jnp

from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import apply
from flaxmill.model.params import Params
from flaxmill.model.transformer import Batch
from flaxmill.train.objectives.losses import combine, denominators, numerators
from flaxmill.train.objectives.table import objective_for


def parity_loss(config: ModelConfig, params: Params, batch: Batch) -> jax.Array:
    """Scalar loss of a completed batch, as transformers defines it for the model's head.

    Labels are in the batch: `targets` and `weights` [B,T] of tokens, `nsp_labels`, or `labels` or `starts`
    and `ends` with `weights` [B]. A model without a head has half the mean squared distance of its hidden
    states to `distance_to` [B,T,D], plus half the mean square of what it pools.
    """
    if config.problem == "regression" and config.num_classes != 1:  # no objective trains it
        return jnp.square(apply(config, params, batch)["logits"] - batch["labels"]).mean()
    if objective := objective_for(config.head):
        # As in training, masked places are gathered before the head.
        places = batch["tokens"].shape[1] if config.head in ("mlm", "mlm_nsp") else None
        sums = numerators(objective, config, params, batch, max_predictions=places)
        return combine(objective, 0.0, sums, denominators(objective, batch))["loss"]
    return _distance(apply(config, params, batch), batch["distance_to"], batch["documents"] > 0)


def _distance(outputs: Batch, distance_to_BTD: jax.Array, is_real_BT: jax.Array) -> jax.Array:
    squares_BTD = jnp.square(outputs["hidden"] - distance_to_BTD) * is_real_BT[..., None]
    loss = squares_BTD.sum() / is_real_BT.sum() / squares_BTD.shape[-1] / 2
    return loss + jnp.square(outputs["pooled"]).mean() / 2 if "pooled" in outputs else loss
