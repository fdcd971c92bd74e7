"""What fine-tuning minimises: the losses of a task head over a batch, as sums."""

# B batch, T tokens, C classes, D model

import jax
import jax.numpy as jnp
import optax

from flaxmill.model.transformer import Batch, Transformer

Sums = dict[str, jax.Array]


def task_sums(model: Transformer, hidden_BTD: jax.Array, batch: Batch, key: jax.Array | None) -> Sums:
    """Weighted sums of losses and of right answers, named for the terms of the head's objective.

    `weights` is [B], or [B,T] where every token has a class; a row or token without a label has weight 0.
    """
    logits = model.class_logits(hidden_BTD, batch["documents"], key)
    match model.config.head:
        case "classification" if model.config.num_classes == 1:
            return _regression_sums(logits[:, 0], batch)
        case "classification":
            return _class_sums("classification", logits, batch["labels"], batch["weights"])
        case "token_classification":
            return _class_sums("token_classification", logits, batch["targets"], batch["weights"])
        case "qa":
            return _answer_sums(logits, batch)
    raise AssertionError(f"no task objective trains the head {model.config.head}")


def _regression_sums(predicted_B: jax.Array, batch: Batch) -> Sums:
    """Squared errors, as transformers' heads of one class have them."""
    return {"classification": (batch["weights"] * (predicted_B - batch["labels"]) ** 2).sum()}


def _class_sums(term: str, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Sums:
    """Cross-entropies; what has no label, -1, has weight 0."""
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    correct = logits.argmax(-1) == labels
    return {term: (weights * nll).sum(), f"{term}_correct": (weights * correct).sum()}


def _answer_sums(logits_BTC: jax.Array, batch: Batch) -> Sums:
    """Of where an answer starts and where it ends, among a row's real places (Devlin et al. 2019, 4.2)."""
    logits_BTC = jnp.where(batch["documents"][..., None] > 0, logits_BTC, -jnp.inf)
    # A row of padding has no place at all, and weight 0; without this it would be 0 x NaN.
    logits_BTC = jnp.where((batch["documents"] > 0).any(1)[:, None, None], logits_BTC, 0.0)
    starts = _class_sums("start", logits_BTC[..., 0], batch["starts"], batch["weights"])
    return starts | _class_sums("end", logits_BTC[..., 1], batch["ends"], batch["weights"])
