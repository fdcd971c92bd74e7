"""What fine-tuning minimises: the losses of a task head over a batch, as sums, beside what scores count."""

# B batch, T tokens, C and P classes wanted and predicted, D model

import jax
import jax.numpy as jnp
import optax

from flaxmill.model.transformer import Batch, Transformer

Sums = dict[str, jax.Array]


def task_sums(
    model: Transformer,
    hidden_BTD: jax.Array,
    batch: Batch,
    key: jax.Array | None,
    label_smoothing: float = 0.0,
) -> Sums:
    """Weighted sums of losses and of right answers, named for the terms of the head's objective, and the
    counts that scores of categories are computed from.

    `weights` is [B], or [B,T] where every token has a class; a row or token without a label has weight 0.
    Of labels of which any number may apply there is `label_counts` [C,3]: how often each was rightly, wrongly
    and not predicted where it should have been.
    Of categories there is also `confusion` [C,C]: of each label (rows) the number that was taken for each
    class (columns), each labelled row or token once, whatever its weight.
    """
    logits = model.class_logits(hidden_BTD, batch["documents"], key)
    match model.config.head:
        case "classification" if model.config.problem == "multi_label_classification":
            return _multi_label_sums(logits, batch)
        case "classification" if model.config.num_classes == 1:
            return _regression_sums(logits[:, 0], batch)
        case "classification":
            is_known = (batch["documents"] > 0).any(1) & (batch["labels"] >= 0)
            labels = batch["labels"]
            return _class_sums("classification", logits, labels, batch["weights"], label_smoothing) | {
                "confusion": _confusion(labels, logits, is_known)
            }
        case "token_classification":
            labels, weights = batch["targets"], batch["weights"]
            return _class_sums("token_classification", logits, labels, weights, label_smoothing) | {
                "confusion": _confusion(labels, logits, weights > 0)
            }
        case "qa":
            return _answer_sums(logits, batch)
    raise AssertionError(f"no task objective trains the head {model.config.head}")


def _confusion(labels: jax.Array, logits: jax.Array, is_known: jax.Array) -> jax.Array:
    num_classes = logits.shape[-1]
    wanted = jax.nn.one_hot(labels, num_classes) * is_known[..., None]
    predicted = jax.nn.one_hot(logits.argmax(-1), num_classes)
    return jnp.einsum("...C,...P->CP", wanted, predicted)  # exact: whole numbers of float32


def _regression_sums(predicted_B: jax.Array, batch: Batch) -> Sums:
    """Squared errors, as transformers' heads of one class have them."""
    return {"classification": (batch["weights"] * (predicted_B - batch["labels"]) ** 2).sum()}


def _multi_label_sums(logits_BC: jax.Array, batch: Batch) -> Sums:
    """A yes or no for each label, as torch's BCEWithLogitsLoss: the mean of their cross-entropies. A row is
    right if all of its labels are."""
    wanted_BC = batch["labels"] > 0
    predicted_BC = logits_BC > 0
    losses_B = optax.sigmoid_binary_cross_entropy(logits_BC, batch["labels"]).mean(-1)
    is_known_B1 = (batch["weights"] > 0)[:, None]
    counted = (wanted_BC & predicted_BC, ~wanted_BC & predicted_BC, wanted_BC & ~predicted_BC)
    return {
        "classification": (batch["weights"] * losses_B).sum(),
        "classification_correct": (batch["weights"] * (wanted_BC == predicted_BC).all(-1)).sum(),
        "label_counts": jnp.stack(
            [(one_BC & is_known_B1).sum(0).astype(jnp.float32) for one_BC in counted], axis=-1
        ),
    }


def _class_sums(
    term: str, logits: jax.Array, labels: jax.Array, weights: jax.Array, label_smoothing: float = 0.0
) -> Sums:
    """Cross-entropies; what has no label, -1, has weight 0."""
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    if label_smoothing:
        spread = -jax.nn.log_softmax(logits).mean(-1)
        nll = (1 - label_smoothing) * nll + label_smoothing * spread
    correct = logits.argmax(-1) == labels
    return {term: (weights * nll).sum(), f"{term}_correct": (weights * correct).sum()}


def _answer_sums(logits_BTC: jax.Array, batch: Batch) -> Sums:
    """Of where an answer starts and where it ends, among a row's real places (Devlin et al. 2019, 4.2)."""
    logits_BTC = jnp.where(batch["documents"][..., None] > 0, logits_BTC, -jnp.inf)
    # A row of padding has no place at all, and weight 0; without this it would be 0 x NaN.
    logits_BTC = jnp.where((batch["documents"] > 0).any(1)[:, None, None], logits_BTC, 0.0)
    starts = _class_sums("start", logits_BTC[..., 0], batch["starts"], batch["weights"])
    return starts | _class_sums("end", logits_BTC[..., 1], batch["ends"], batch["weights"])
