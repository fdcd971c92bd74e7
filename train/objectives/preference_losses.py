"""Direct preference optimization: what pairs of answers are learned by (Rafailov et al. 2023)."""

# B pairs, T tokens of both answers with their prompts, 2: the chosen and the rejected answer

import jax
import jax.numpy as jnp

from flaxmill.model.config import ModelConfig
from flaxmill.model.transformer import Batch, Transformer
from flaxmill.sharding.local_tokens import first_token, share_of_row, sum_parts
from flaxmill.train.objectives.losses import SumOptions, Sums, token_losses

_REJECTED = 2  # the number of its document in a row


def answer_logps(model: Transformer, batch: Batch, options: SumOptions) -> jax.Array:
    """float32 [B,2]: the log-probabilities of the chosen and of the rejected answer behind its prompt, each
    the sum over the answer's tokens."""
    hidden_BTD = model(batch, options.key)
    with jax.named_scope("token_loss"):
        losses = token_losses(model, hidden_BTD, batch["targets"], options._replace(label_smoothing=0.0))
    logps_BT = -batch["weights"] * losses.nll
    is_rejected_BT = batch["documents"] == _REJECTED
    return sum_parts(jnp.stack([(logps_BT * ~is_rejected_BT).sum(1), (logps_BT * is_rejected_BT).sum(1)], 1))


def dpo_sums(model: Transformer, batch: Batch, options: SumOptions) -> Sums:
    """Sums over pairs of DPO's loss (equation 7), -log sigmoid(margin), with rewards of an answer that are
    beta times how much likelier it has become than it was before training.

    With label smoothing s the loss is that of a preference that is the other way round with probability s
    (Mitchell 2023, "A note on DPO with noisy preferences"). The names of the means are TRL's.
    """
    logps_B2 = answer_logps(model, batch, options)
    with jax.named_scope("preference_loss"):
        rewards_B2 = options.beta * (logps_B2 - batch["reference"])
        margins_B = rewards_B2[:, 0] - rewards_B2[:, 1]
        share = options.label_smoothing
        nll_B = -(1 - share) * jax.nn.log_sigmoid(margins_B) - share * jax.nn.log_sigmoid(-margins_B)
        of_pairs = {
            "dpo": nll_B,
            "rewards/chosen": rewards_B2[:, 0],
            "rewards/rejected": rewards_B2[:, 1],
            "rewards/margins": margins_B,
            "rewards/accuracies": (margins_B > 0).astype(jnp.float32),
            "logps/chosen": logps_B2[:, 0],
            "logps/rejected": logps_B2[:, 1],
        }
        weights_B = pair_weights("dpo", batch) * share_of_row()
        return {name: (weights_B * values_B).sum() for name, values_B in of_pairs.items()}


def pair_weights(term: str, batch: Batch) -> jax.Array:
    """float32 [B]: 1 for a pair, and 0 for a row of padding."""
    return first_token(batch["mask"]).astype(jnp.float32)


def no_counts(terms: tuple[str, ...], config: ModelConfig) -> Sums:
    """DPO counts nothing: its accuracy is a mean."""
    return {}
