"""What is minimised: sums over a batch, and how they become the loss and its reported parts.

Every term is sum(weights * nll) / sum(weights). The denominator counts the whole batch on all devices and is
known before the first microbatch, so accumulation, sharding and padding change nothing.
"""

# B batch, T tokens, P predicted places, D model

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flaxmill.data.objectives import find_function
from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import TextPooling
from flaxmill.model.functional import bind
from flaxmill.model.layers.router import hear_routing
from flaxmill.model.layers.tables import VOCABULARY, open_table
from flaxmill.model.params import Params
from flaxmill.model.transformer import Batch, Transformer, complete_batch
from flaxmill.sharding.local_tokens import first_token, share_of_row
from flaxmill.train.objectives.by_source import BY_SOURCE, of_each
from flaxmill.train.objectives.cross_entropy import TokenLosses, cross_entropy
from flaxmill.train.objectives.expert_losses import CHOICES, expert_losses, expert_sums, real_tokens
from flaxmill.train.objectives.table import Objective, objective_of

Sums = dict[str, Any]
"""Scalars, and counts of a task, by name. All of them add up over batches."""


class SumOptions(NamedTuple):
    """What the sums of an objective depend on besides the model and the batch."""

    objective: Objective
    max_predictions: int | None = None
    """The most places of a row with a weight; None: every place may have one. Masked places are gathered
    before the head, which then reads P of a row's T tokens."""
    key: jax.Array | None = None
    """A key for each row [B]; turns dropout on."""
    chunk_tokens: int | None = None
    """As in `cross_entropy`."""
    label_smoothing: float = 0.0
    """The share of a target's probability that is spread over the vocabulary or the classes."""
    num_sources: int = 0
    """How many sources the rows come from, if the sums of each are wanted too."""
    beta: float = 0.1
    """Experiment.beta."""
    temperature: float = 0.05
    """Experiment.temperature."""
    pooling: TextPooling = "mean"
    """Experiment.pooling."""


def denominators(objective: str, batch: Batch, num_sources: int = 0) -> Sums:
    """What the terms are divided by: float32 sums of weights over the whole batch, and over each source."""
    row = objective_of(objective)
    weights = find_function(row.weights)
    sums: Sums = {f"{term}_weight": weights(term, batch).sum() for term in row.terms}
    sums |= {"rows": jnp.float32(batch["tokens"].shape[0]), "places": batch["weights"].sum()}
    sums |= {"real_tokens": real_tokens(batch)} if {"documents", "mask"} & {*batch} else {}
    if "causal" in batch:
        sums["causal_rows"] = batch["causal"].sum().astype(jnp.float32)
    of_rows = {f"{term}_weight": weights(term, batch) for term in row.terms} if num_sources else {}
    of_rows |= {"rows": jnp.ones(batch["tokens"].shape[:1])} if num_sources else {}
    of_rows |= {"causal_rows": batch["causal"]} if num_sources and "causal" in batch else {}
    return sums | of_each(of_rows, batch, num_sources)


def numerators(
    objective: str,
    config: ModelConfig,
    params: Params,
    batch: Batch,
    *,
    max_predictions: int | None,
    keys: jax.Array | None = None,
    chunk_tokens: int | None = None,
    label_smoothing: float = 0.0,
    num_sources: int = 0,
    beta: float = 0.1,
    temperature: float = 0.05,
    pooling: TextPooling = "mean",
) -> Sums:
    """Weighted sums of losses and of right answers over these rows; SumOptions explains the options."""
    row = objective_of(objective)
    options = SumOptions(
        row, max_predictions, keys, chunk_tokens, label_smoothing, num_sources, beta, temperature, pooling
    )
    with hear_routing() as heard:
        sums = find_function(row.sums)(bind(config, params), complete_batch(config, batch), options)
    return sums | expert_sums(config, heard)


def combine(objective: str, z_loss: float, numerators: Sums, denominators: Sums) -> Sums:
    """`loss`; with several terms or a z_loss also these parts, such as `mlm_loss`, `nsp_loss`, `causal_loss`,
    `start_loss`, `end_loss`, `z_loss`; the objective's means; accuracies, as
    TERM_accuracy or, for a task's only term, `accuracy`; for a model with experts what `expert_losses`
    reports.

    The loss is linear in the numerators, so that microbatches may be combined one by one and added up.
    """
    row = objective_of(objective)
    shares = find_function(row.shares)(row.terms, denominators)
    parts: Sums = {}
    total = 0.0
    for term in row.terms:
        # A batch may lack a term's places altogether; its sum is then 0, and so is the term. Weights that
        # count are 1 or more, see `check_class_weights`.
        weight = jnp.maximum(denominators[f"{term}_weight"], 1)
        parts[f"{term}_loss"] = numerators[term] / weight
        if f"{term}_correct" in numerators:  # a regression has none
            is_alone = row.is_task and len(row.terms) == 1
            parts["accuracy" if is_alone else f"{term}_accuracy"] = numerators[f"{term}_correct"] / weight
        total += shares[term] * parts[f"{term}_loss"]
    for name in row.means:
        parts[name] = numerators[name] / jnp.maximum(denominators[f"{row.terms[0]}_weight"], 1)
    if z_loss:
        parts["z_loss"] = z_loss * numerators["log_z_squared"] / jnp.maximum(denominators["places"], 1)
        total += parts["z_loss"]
    of_experts = {}
    if CHOICES in numerators:
        weighted, of_experts = expert_losses(numerators, denominators)
        total += weighted
    if len(row.terms) == 1 and not z_loss and not of_experts:
        del parts[f"{row.terms[0]}_loss"]
    return {"loss": total} | parts | of_experts


def source_losses(objective: str, numerators: Sums, denominators: Sums) -> jax.Array | None:
    """[K]: the loss of each source's rows, NaN for a source that has none in the batch; None where the sums
    are not by source, as in objectives of a user's own."""
    if BY_SOURCE not in numerators:
        return None
    totals = denominators[BY_SOURCE]
    losses = combine(objective, 0.0, numerators[BY_SOURCE], totals)["loss"]
    has_any = sum(totals[f"{term}_weight"] for term in objective_of(objective).terms) > 0
    return jnp.where(has_any, losses, jnp.nan)


def token_sums(model: Transformer, batch: Batch, options: SumOptions) -> Sums:
    """Sums of an objective that predicts tokens, for each of its terms."""
    hidden_BTD = model(batch, options.key)
    return _token_sums(model, hidden_BTD, batch, options, options.objective.terms)


def masked_pair_sums(model: Transformer, batch: Batch, options: SumOptions) -> Sums:
    """Sums of BERT's two terms: masked words, and whether the second sentence is random."""
    hidden_BTD = model(batch, options.key)
    sums = _next_sentence_sums(model, hidden_BTD, batch, options)
    of_tokens = _token_sums(model, hidden_BTD, batch, options, ("mlm",))
    by_source = sums.get(BY_SOURCE, {}) | of_tokens.get(BY_SOURCE, {})
    return sums | of_tokens | ({BY_SOURCE: by_source} if by_source else {})


def place_weights(term: str, batch: Batch) -> jax.Array:
    """[B,T], or [B] for a decision on the row: how much each place counts for the term."""
    if term == "nsp":
        return first_token(batch["mask"]).astype(jnp.float32)  # a row of padding has no sentence to judge
    if "causal" not in batch:
        return batch["weights"]
    is_causal = batch["causal"][:, None].astype(jnp.float32)
    return batch["weights"] * (is_causal if term == "causal" else 1 - is_causal)


def whole_terms(terms: tuple[str, ...], denominators: Mapping[str, Any]) -> dict[str, Any]:
    """Shares of 1: the loss is the sum of its terms."""
    return dict.fromkeys(terms, 1.0)


def shares_of_rows(terms: tuple[str, ...], denominators: Mapping[str, Any]) -> dict[str, Any]:
    """Each term's share is the share of its rows, causal or masked, in the batch."""
    causal = denominators["causal_rows"] / denominators["rows"]
    return {term: causal if term == "causal" else 1 - causal for term in terms}


def right_answers(terms: tuple[str, ...], config: ModelConfig) -> Sums:
    """The counts of an objective whose answers are right or wrong."""
    return {f"{term}_correct": 1.0 for term in terms}


def _token_sums(
    model: Transformer, hidden_BTD: jax.Array, batch: Batch, options: SumOptions, terms: tuple[str, ...]
) -> Sums:
    if options.max_predictions is not None:
        hidden_BTD, batch = _gather_predicted(hidden_BTD, batch, options.max_predictions)
    with jax.named_scope("token_loss"):
        losses = token_losses(model, hidden_BTD, batch["targets"], options)
    weights_of = find_function(options.objective.weights)
    sums: Sums = {}
    for term in terms:
        weights = weights_of(term, batch)
        sums[term] = (weights * losses.nll).sum()
        sums[f"{term}_correct"] = (weights * losses.correct).sum()
    sums["log_z_squared"] = (batch["weights"] * losses.log_z**2).sum()
    of_places = {term: weights_of(term, batch) * losses.nll for term in terms}
    return sums | of_each(of_places, batch, options.num_sources)


def _next_sentence_sums(model: Transformer, hidden_BTD: jax.Array, batch: Batch, options: SumOptions) -> Sums:
    assert model.nsp is not None
    with jax.named_scope("next_sentence_loss"):
        logits = model.next_sentence_logits(model.pool(hidden_BTD, batch["documents"]))
        weights = find_function(options.objective.weights)("nsp", batch) * share_of_row()
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["nsp_labels"])
        correct = logits.argmax(-1) == batch["nsp_labels"]
        sums = {"nsp": (weights * nll).sum(), "nsp_correct": (weights * correct).sum()}
        return sums | of_each({"nsp": weights * nll}, batch, options.num_sources)


def _gather_predicted(hidden_BTD: jax.Array, batch: Batch, num_places: int) -> tuple[jax.Array, Batch]:
    """Keep the `num_places` first places of each row that have a weight, in order; others fill the rest."""
    order_BP = jnp.argsort(batch["weights"] == 0, axis=1, stable=True)[:, :num_places]
    picked = {name: jnp.take_along_axis(batch[name], order_BP, axis=1) for name in ("targets", "weights")}
    return jnp.take_along_axis(hidden_BTD, order_BP[..., None], axis=1), {**batch, **picked}


def token_losses(
    model: Transformer, hidden: jax.Array, targets: jax.Array, options: SumOptions
) -> TokenLosses:
    """Losses of targets [B,T] over the vocabulary, from hidden states [B,T,D], with label smoothing."""
    table_VD, bias_V = model.output_table()
    decoded, size = model.before_output(hidden), model.config.vocab_size
    assert size is not None
    return cross_entropy(
        decoded,
        open_table(table_VD, VOCABULARY, decoded.dtype),
        bias_V,
        targets,
        vocab_size=size,
        chunk_tokens=options.chunk_tokens,
        label_smoothing=options.label_smoothing,
    )
