"""What fine-tuning minimises: sums of a task head's losses over a batch, with the counts for scores."""

# B batch, T tokens, C and P classes wanted and predicted, D model

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxmill.model.config import ModelConfig
from flaxmill.model.layers.dropout import split_keys
from flaxmill.model.transformer import Batch, Transformer
from flaxmill.sharding.local_tokens import greatest_part, join_parts, share_of_row
from flaxmill.train.objectives.losses import SumOptions, Sums, right_answers


def classification_sums(model: Transformer, batch: Batch, options: SumOptions) -> Sums:
    """Sums over rows, each with one label, a number, or any number of labels; `weights` is [B], and a row
    without a label has weight 0.

    With one label, also `confusion` [C,C]: how many rows of each label (rows) were taken for each class
    (columns); every labelled row counts once, whatever its weight. With any number of labels, also
    `label_counts` [C,3]: how often each label was predicted rightly, predicted wrongly, and missed.
    """
    logits = _class_logits(model, batch, options)
    batch = _as_decisions(batch)
    if model.config.problem == "multi_label_classification":
        return _multi_label_sums(logits, batch)
    if model.config.num_classes == 1:
        return _regression_sums(logits[:, 0], batch)
    labels = batch["labels"]
    is_known = _has_tokens(batch) & (labels >= 0)
    sums = _class_sums("classification", logits, labels, batch["weights"], options.label_smoothing)
    return sums | {"confusion": _confusion(labels, logits, is_known * share_of_row())}


def tag_sums(model: Transformer, batch: Batch, options: SumOptions) -> Sums:
    """Sums over tokens with a class each; `weights` is [B,T], and a token without a tag has weight 0.

    Also `confusion` [C,C], as `classification_sums` has it.
    """
    logits = _class_logits(model, batch, options)
    labels, weights = batch["targets"], batch["weights"]
    sums = _class_sums("token_classification", logits, labels, weights, options.label_smoothing)
    return sums | {"confusion": _confusion(labels, logits, weights > 0)}


def answer_sums(model: Transformer, batch: Batch, options: SumOptions) -> Sums:
    """Sums over where an answer starts and where it ends, among a row's real places (Devlin et al. 2019,
    4.2)."""
    logits_BTC = _class_logits(model, batch, options)
    logits_BTC = jnp.where(batch["documents"][..., None] > 0, logits_BTC, -jnp.inf)
    # A row of padding has no place at all, and weight 0; without this it would be 0 x NaN.
    logits_BTC = jnp.where(_has_tokens(batch)[:, None, None], logits_BTC, 0.0)
    logits_BTC, batch = join_parts(logits_BTC), _as_decisions(batch)
    starts = _class_sums("start", logits_BTC[..., 0], batch["starts"], batch["weights"])
    return starts | _class_sums("end", logits_BTC[..., 1], batch["ends"], batch["weights"])


def equal_shares(terms: tuple[str, ...], denominators: Mapping[str, Any]) -> dict[str, Any]:
    """Equal shares: the loss is the mean of its terms."""
    return dict.fromkeys(terms, 1 / len(terms))


def class_counts(terms: tuple[str, ...], config: ModelConfig) -> Sums:
    """The counts of a classifier; a regression has none."""
    num_classes, correct = config.num_classes, right_answers(terms, config)
    assert num_classes is not None, "a task's model has classes"
    if config.problem == "multi_label_classification":
        return correct | {"label_counts": np.ones((num_classes, 3))}
    return correct | {"confusion": np.eye(num_classes)} if num_classes > 1 else {}


def _class_logits(model: Transformer, batch: Batch, options: SumOptions) -> jax.Array:
    of_body, of_head = split_keys(options.key, 2)
    return model.class_logits(model(batch, of_body), batch["documents"], of_head)


def _has_tokens(batch: Batch) -> jax.Array:
    """bool [B]: rows that are not padding from end to end."""
    return greatest_part((batch["documents"] > 0).any(1).astype(jnp.int32)) > 0


def _as_decisions(batch: Batch) -> Batch:
    """The batch with the weights [B] of decisions on whole rows, of which devices may each count a share."""
    return {**batch, "weights": batch["weights"] * share_of_row()}


def _confusion(labels: jax.Array, logits: jax.Array, is_known: jax.Array) -> jax.Array:
    num_classes = logits.shape[-1]
    wanted = jax.nn.one_hot(labels, num_classes) * is_known[..., None]
    predicted = jax.nn.one_hot(logits.argmax(-1), num_classes)
    return jnp.einsum("...C,...P->CP", wanted, predicted)  # exact: whole numbers in float32


def _regression_sums(predicted_B: jax.Array, batch: Batch) -> Sums:
    """Squared errors, as in transformers' heads with one class."""
    return {"classification": (batch["weights"] * (predicted_B - batch["labels"]) ** 2).sum()}


def _multi_label_sums(logits_BC: jax.Array, batch: Batch) -> Sums:
    """The mean cross-entropy of a yes or no for each label, as in torch's BCEWithLogitsLoss. A row is right
    if all of its labels are."""
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
        )
        * share_of_row(),
    }


def _class_sums(
    term: str, logits: jax.Array, labels: jax.Array, weights: jax.Array, label_smoothing: float = 0.0
) -> Sums:
    """Sums of cross-entropies; an entry without a label (-1) has weight 0."""
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    if label_smoothing:
        spread = -jax.nn.log_softmax(logits).mean(-1)
        nll = (1 - label_smoothing) * nll + label_smoothing * spread
    correct = logits.argmax(-1) == labels
    return {term: (weights * nll).sum(), f"{term}_correct": (weights * correct).sum()}
