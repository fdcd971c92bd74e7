"""Measures losses on held-out rows, and shows them beside what counting would reach."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from flaxmill.data.batches import Batches
from flaxmill.data.objectives import find_function
from flaxmill.data.source import parse_source
from flaxmill.model.params import Params
from flaxmill.sharding.processes.step_signals import Signals
from flaxmill.train.experiment import Experiment
from flaxmill.train.input_pipeline import HeldOut, read_ahead
from flaxmill.train.metrics.callbacks import metrics_of_callbacks
from flaxmill.train.objectives.expert_losses import counted_experts
from flaxmill.train.objectives.losses import Sums, combine
from flaxmill.train.objectives.table import objective_of
from flaxmill.train.run.mesh_fit import in_zigzag
from flaxmill.train.step import EvalStep


def evaluate(
    eval_step: EvalStep,
    params: Params,
    batches: Batches,
    experiment: Experiment,
    mesh: Mesh,
    signals: Signals | None = None,
    tell: Callable[[int], None] = lambda number: None,
) -> dict[str, float] | None:
    """`eval_loss` and its parts over the first `experiment.eval_batches` batches of held-out rows, and for
    categories the scores that follow from counts.

    Args:
      signals: asked after every batch; when they say stop the evaluation is given up and None returned.
      tell: is given the number of each batch.
    """
    totals = _sum_up(eval_step, params, batches, experiment, mesh, signals, tell)
    return None if totals is None else _named(_measures(experiment, totals))


def evaluate_all(
    eval_step: EvalStep,
    params: Params,
    held_out: HeldOut,
    experiment: Experiment,
    mesh: Mesh,
    signals: Signals | None = None,
    tell: Callable[[int], None] = lambda number: None,
) -> dict[str, float] | None:
    """As `evaluate`, over the rows of all sources; for a mixture also eval_loss/NAME of each source and of
    further held-out text, which does not count in eval_loss."""
    pooled: tuple[Sums, Sums] = ({}, {})
    apart: dict[str, float] = {}
    for name, batches in (held_out.sources | held_out.extra).items():
        totals = _sum_up(eval_step, params, batches, experiment, mesh, signals, tell)
        if totals is None:
            return None
        if name:
            apart |= _named(_measures(experiment, totals), f"/{name}")
        if name in held_out.sources:
            _add(pooled, totals)
    return _named(_measures(experiment, pooled)) | apart


def _named(measures: Mapping[str, Any], suffix: str = "") -> dict[str, Any]:
    """Numbers, and lists of numbers."""
    return {f"eval_{name}{suffix}": np.asarray(value).tolist() for name, value in measures.items()}


def _sum_up(
    eval_step: EvalStep,
    params: Params,
    batches: Batches,
    experiment: Experiment,
    mesh: Mesh,
    signals: Signals | None,
    tell: Callable[[int], None],
) -> tuple[Sums, Sums] | None:
    num_batches = min(batches.num_batches, experiment.eval_batches or batches.num_batches)
    totals: tuple[Sums, Sums] = ({}, {})
    pending: Any = None  # read one batch late, so that the device never waits for the host
    with closing(read_ahead(batches, mesh, 0, num_batches, zigzag=in_zigzag(experiment))) as ahead:
        for number, rows, _ in ahead:
            tell(number)
            *sums, agreed = eval_step(params, rows, signals.inputs() if signals else None)
            if pending is not None:
                _add(totals, pending[0])
                if signals is not None and signals.agreed(jax.device_get(pending[1])).stop:
                    return None
            pending = sums, agreed
    if pending is not None:
        _add(totals, pending[0])
    return totals


def evaluation_names(experiment: Experiment) -> list[str]:
    """What evaluations report of a resolved experiment, the numbers of its callbacks last."""
    definition = experiment.definition
    sums: Sums = dict.fromkeys(("rows", "causal_rows", "places", "log_z_squared", *definition.means), 1.0)
    sums |= {name: 1.0 for term in definition.terms for name in (term, f"{term}_weight")}
    sums |= find_function(definition.counts)(definition.terms, experiment.model)
    sums |= counted_experts(experiment.model)
    measures = _measures(experiment, (sums, sums))
    names = [f"eval_{name}" for name, value in measures.items() if np.ndim(value) == 0]
    sources = [
        parse_source(source).name for source in (*experiment.data.sources, *experiment.data.valid_sources)
    ]
    of_sources = [f"{name}/{source}" for source in sources for name in names]
    return [*names, *of_sources, *metrics_of_callbacks(experiment.callbacks)]


def _measures(experiment: Experiment, totals: tuple[Sums, Sums]) -> dict[str, Any]:
    scores = find_function(experiment.definition.scores)
    return combine(experiment.objective, experiment.z_loss, *totals) | scores(totals[0])


def _add(totals: tuple[Sums, Sums], sums: Any) -> None:
    """Sum in float64: there may be many batches."""
    for total, part in zip(totals, jax.device_get(sums), strict=True):
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + np.asarray(value, np.float64)


def compare_with_counting(
    metrics: dict[str, float], objective: str, statistics: dict[str, Any]
) -> dict[str, float]:
    """Add what counting reaches on the same data: entropies, the share of the commonest label, the variance
    of numbers; and bits per byte and perplexity for causal models."""
    compared = dict(metrics)
    for name in ("unigram_entropy", "bigram_entropy", "nsp_majority"):
        if name in statistics:
            compared[f"eval_{name}"] = statistics[name]
    if counts := statistics.get("label_counts"):
        compared["eval_majority"] = max(counts) / sum(counts)
    if "label_std" in statistics:
        compared["eval_variance"] = statistics["label_std"] ** 2
    is_causal = objective_of(objective).terms == ("causal",)
    causal = metrics.get("eval_causal_loss", metrics["eval_loss"] if is_causal else None)
    if causal is not None and statistics["num_bytes"]:
        num_targets = statistics["num_tokens"] - statistics.get("num_leading", 0)
        tokens_per_byte = num_targets / statistics["num_bytes"]
        compared["eval_bits_per_byte"] = causal * tokens_per_byte / math.log(2)
        compared["eval_perplexity"] = math.exp(min(causal, 700.0))  # what a float can hold
    return compared


def summarize_evaluation(metrics: dict[str, float], followed: str | None) -> str:
    """One line on an evaluation during training: the loss, and the value that the best checkpoint follows."""
    loss = f"held-out loss {metrics['eval_loss']:.3f}"
    if followed is None or followed == "eval_loss":
        return loss
    return f"{loss}, {followed.removeprefix('eval_')} {metrics[followed]:.3f}"


def describe_evaluation(metrics: dict[str, float], of_callbacks: Iterable[str] = ()) -> str:
    """A few lines for a person: every loss beside the entropy or share that counting reaches.

    Args:
      of_callbacks: the names that callbacks measure; an evaluation before one was added lacks some.
    """
    get = metrics.get
    lines = []
    if "eval_bits_per_byte" in metrics:
        loss = get("eval_causal_loss", metrics["eval_loss"])
        lines.append(
            f"held-out next-token loss {loss:.3f} nats, {metrics['eval_bits_per_byte']:.3f} bits a byte"
        )
    if "eval_mlm_accuracy" in metrics:
        loss = get("eval_mlm_loss", metrics["eval_loss"])
        lines.append(
            f"held-out masked-word loss {loss:.3f} nats, accuracy {metrics['eval_mlm_accuracy']:.3f}"
        )
    if "eval_nsp_accuracy" in metrics:
        lines.append(
            f"held-out next-sentence accuracy {metrics['eval_nsp_accuracy']:.3f}, "
            f"majority share {get('eval_nsp_majority', math.nan):.3f}"
        )
    if "eval_accuracy" in metrics:
        accuracy, loss = metrics["eval_accuracy"], metrics["eval_loss"]
        lines.append(f"held-out accuracy {accuracy:.3f}, loss {loss:.3f} nats")
    if "eval_rewards/accuracies" in metrics:
        lines.append(
            f"held-out pairs: the chosen answer has gained more in {metrics['eval_rewards/accuracies']:.3f}, "
            f"margin {metrics['eval_rewards/margins']:.3f}, loss {metrics['eval_loss']:.3f} nats"
        )
    if "eval_start_accuracy" in metrics:
        lines.append(
            f"held-out answers: start found {metrics['eval_start_accuracy']:.3f}, "
            f"end {metrics['eval_end_accuracy']:.3f}, loss {metrics['eval_loss']:.3f} nats"
        )
    if not lines and "eval_variance" not in metrics:
        lines.append(f"held-out loss {metrics['eval_loss']:.3f}{_parts_of(metrics)}")
    if "eval_variance" in metrics:
        lines.append(
            f"held-out squared error {metrics['eval_loss']:.4f}, variance {metrics['eval_variance']:.4f}"
        )
    if "eval_majority" in metrics:
        lines.append(f"share of the commonest label {metrics['eval_majority']:.3f}")
    if "eval_unigram_entropy" in metrics:
        lines.append(
            f"counting words alone: unigram entropy {metrics['eval_unigram_entropy']:.3f} nats, "
            f"bigram {get('eval_bigram_entropy') or math.nan:.3f}"
        )
    if own := [
        f"{name.removeprefix('eval_')} {metrics[name]:.4g}" for name in of_callbacks if name in metrics
    ]:
        lines.append(f"callbacks: {', '.join(own)}")
    if apart := [name for name in metrics if name.startswith("eval_loss/")]:
        said = [f"{name.removeprefix('eval_loss/')} {metrics[name]:.3f}" for name in apart]
        lines.append(f"held-out loss of each source: {', '.join(said)}")
    return "\n".join(lines)


def _parts_of(metrics: dict[str, float]) -> str:
    """The terms of the loss and their accuracies, for an objective that no line above is about."""
    names = [name for name in metrics if name.endswith(("_loss", "_accuracy")) and name != "eval_loss"]
    parts = [f"{name.removeprefix('eval_').replace('_', ' ')} {metrics[name]:.3f}" for name in names]
    return f" nats: {', '.join(parts)}" if parts else " nats"
