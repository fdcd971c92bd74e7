"""What is minimised: sums over a batch, and how they become the loss and its reported parts.

Every term is sum(weights * nll) / sum(weights) with the denominator of the whole batch on all devices,
known before the first microbatch, so that accumulation, sharding and padding change nothing.
"""

# B batch, T tokens, P predicted places, D model

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxmill.data.config import TASK_OBJECTIVES
from flaxmill.model.apply import Params, bind
from flaxmill.model.config import ModelConfig
from flaxmill.model.layers.dropout import split_key
from flaxmill.model.transformer import Batch, Transformer, complete_batch
from flaxmill.train.experiment import CLASS_OBJECTIVES
from flaxmill.train.objectives.cross_entropy import TokenLosses, cross_entropy
from flaxmill.train.objectives.task_losses import task_sums

Sums = dict[str, Any]
"""Scalars, and counts of a task, by name, all additive over batches."""

TERMS = {
    "causal": ("causal",),
    "mlm": ("mlm",),
    "mlm_nsp": ("mlm", "nsp"),  # BERT: the sum of both (Devlin et al. 2019, A.2)
    "hybrid": ("mlm", "causal"),  # GPT-BERT: each weighs as much as its share of the rows
    "classification": ("classification",),
    "token_classification": ("token_classification",),
    "question_answering": ("start", "end"),  # the mean of both, as transformers has it
    "seq2seq": ("seq2seq",),
}


def denominators(objective: str, batch: Batch) -> Sums:
    """What each term is divided by: float32 sums of weights over the whole batch."""
    sums = {f"{term}_weight": _term_weights(term, batch).sum() for term in TERMS[objective]}
    sums["rows"] = jnp.float32(batch["tokens"].shape[0])
    if objective == "hybrid":
        sums["causal_rows"] = batch["causal"].sum().astype(jnp.float32)
    return sums


def numerators(
    objective: str,
    config: ModelConfig,
    params: Params,
    batch: Batch,
    *,
    max_predictions: int | None,
    key: jax.Array | None = None,
    chunk_tokens: int | None = None,
    label_smoothing: float = 0.0,
) -> Sums:
    """Weighted sums of losses and of right answers over these rows.

    Args:
      max_predictions: most places of a row with weight; None: every place may have one. Masked places are
        gathered before the head, which then reads P of a row's T tokens.
      key: turns dropout on.
      chunk_tokens: as in `cross_entropy`.
      label_smoothing: share of a target's probability that is spread over the vocabulary or the classes.
    """
    model = bind(config, params)
    batch = complete_batch(config, batch)
    if objective in CLASS_OBJECTIVES:
        body_key, head_key = split_key(key, 2)
        return task_sums(model, model(batch, body_key), batch, head_key, label_smoothing)
    hidden_BTD = model(batch, key)
    sums: Sums = {}
    if model.nsp is not None and objective == "mlm_nsp":
        sums |= _next_sentence_sums(model, hidden_BTD, batch)
    if max_predictions is not None:
        hidden_BTD, batch = _gather_predicted(hidden_BTD, batch, max_predictions)
    with jax.named_scope("token_loss"):
        losses = _token_losses(model, config, hidden_BTD, batch["targets"], chunk_tokens, label_smoothing)
    for term in TERMS[objective]:
        if term != "nsp":
            weights = _term_weights(term, batch)
            sums[term] = (weights * losses.nll).sum()
            sums[f"{term}_correct"] = (weights * losses.correct).sum()
    sums["log_z_squared"] = (batch["weights"] * losses.log_z**2).sum()
    return sums


def combine(objective: str, z_loss: float, numerators: Sums, denominators: Sums) -> Sums:
    """`loss`, and where there are several terms `mlm_loss`, `nsp_loss`, `causal_loss`, `start_loss`,
    `end_loss`; accuracies, of a task's only term as `accuracy`.

    The loss is linear in the numerators, so that microbatches may be combined one by one and added up.
    """
    parts: Sums = {}
    total = 0.0
    for term in TERMS[objective]:
        # A batch may lack a term's places altogether; its sum is then 0, and so is the term.
        weight = jnp.maximum(denominators[f"{term}_weight"], 1)
        parts[f"{term}_loss"] = numerators[term] / weight
        if f"{term}_correct" in numerators:  # a regression has none
            parts[_accuracy_name(objective, term)] = numerators[f"{term}_correct"] / weight
        total += _share(objective, term, denominators) * parts[f"{term}_loss"]
    if z_loss:
        weight = sum(denominators[f"{term}_weight"] for term in TERMS[objective] if term != "nsp")
        parts["z_loss"] = z_loss * numerators["log_z_squared"] / jnp.maximum(weight, 1)
        total += parts["z_loss"]
    if len(TERMS[objective]) == 1 and not z_loss:
        del parts[f"{TERMS[objective][0]}_loss"]
    return {"loss": total} | parts


def _accuracy_name(objective: str, term: str) -> str:
    return "accuracy" if objective in TASK_OBJECTIVES and len(TERMS[objective]) == 1 else f"{term}_accuracy"


def _share(objective: str, term: str, denominators: Mapping[str, Any]) -> Any:
    if objective == "question_answering":
        return 0.5
    if objective != "hybrid":
        return 1.0
    causal = denominators["causal_rows"] / denominators["rows"]
    return causal if term == "causal" else 1 - causal


def _term_weights(term: str, batch: Batch) -> jax.Array:
    """[B,T], or [B] for a decision on the row: which places count for the term."""
    if term == "nsp":
        return batch["mask"][:, 0].astype(jnp.float32)  # a row of padding has no sentence to judge
    if "causal" not in batch:
        return batch["weights"]
    is_causal = batch["causal"][:, None].astype(jnp.float32)
    return batch["weights"] * (is_causal if term == "causal" else 1 - is_causal)


def _next_sentence_sums(model: Transformer, hidden_BTD: jax.Array, batch: Batch) -> Sums:
    assert model.nsp is not None
    with jax.named_scope("next_sentence_loss"):
        logits = model.next_sentence_logits(model.pool(hidden_BTD, batch["documents"]))
        weights = _term_weights("nsp", batch)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["nsp_labels"])
        correct = logits.argmax(-1) == batch["nsp_labels"]
        return {"nsp": (weights * nll).sum(), "nsp_correct": (weights * correct).sum()}


def _gather_predicted(hidden_BTD: jax.Array, batch: Batch, num_places: int) -> tuple[jax.Array, Batch]:
    """Keep the `num_places` first places of each row that have a weight, in order; others fill up."""
    order_BP = jnp.argsort(batch["weights"] == 0, axis=1, stable=True)[:, :num_places]
    picked = {name: jnp.take_along_axis(batch[name], order_BP, axis=1) for name in ("targets", "weights")}
    return jnp.take_along_axis(hidden_BTD, order_BP[..., None], axis=1), {**batch, **picked}


def _token_losses(
    model: Transformer,
    config: ModelConfig,
    hidden: jax.Array,
    targets: jax.Array,
    chunk_tokens: int | None,
    label_smoothing: float,
) -> TokenLosses:
    table_VD, bias_V = model.output_table()
    decoded = model.before_output(hidden)
    size = config.vocab_size
    assert size is not None
    losses = cross_entropy(decoded, table_VD, bias_V, targets, vocab_size=size, chunk_tokens=chunk_tokens)
    if not label_smoothing:
        return losses
    # The mean of -log p over the vocabulary, from the mean row of the table instead of all logits.
    mean_logit = jnp.einsum(
        "...D,D->...", decoded, table_VD[:size].mean(0), preferred_element_type=jnp.float32
    )
    mean_logit += 0.0 if bias_V is None else bias_V[:size].mean()
    spread = losses.log_z - mean_logit
    return losses._replace(nll=(1 - label_smoothing) * losses.nll + label_smoothing * spread)
