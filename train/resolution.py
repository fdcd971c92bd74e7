"""Fills in what an experiment leaves open, from its data and tokenizer, and checks its parts together."""

import dataclasses
from typing import TYPE_CHECKING, Any, cast

from flaxmill.data.config import LabelType
from flaxmill.data.examples.target_rows import check_prompt_room
from flaxmill.data.messages import require
from flaxmill.data.objectives import find_function, has_labels
from flaxmill.data.special_tokens import lacking_tokens
from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import ProblemType
from flaxmill.train.experiment import Experiment
from flaxmill.train.objectives.table import OBJECTIVES

if TYPE_CHECKING:
    from flaxmill.data.tokenization import Tokenizer


def resolve(experiment: Experiment, tokenizer: "Tokenizer", labels: tuple[str, ...] = ()) -> Experiment:
    """Fill in every None that follows from other fields, and check the parts against each other.

    Args:
      labels: the categories of labelled examples, in the order of their numbers.

    Raises:
      ValueError: vocabulary smaller than the tokenizer's, rows longer than the learned positions, a head or
        an attention direction that contradicts the objective, or a special token that the tokenizer lacks.
    """
    model, definition = experiment.model, experiment.definition
    _check_specials(experiment, tokenizer)
    resolved = dataclasses.replace(
        model,
        vocab_size=_filled(model.vocab_size, tokenizer.vocab_size),
        max_positions=_filled(model.max_positions, _longest_row(experiment)),
        head=_filled(model.head, definition.head),
        causal=_filled(model.causal, bool(definition.causal)),
        bidirectional_prefix=True if definition.reads_prefix else model.bidirectional_prefix,
    )
    resolved = dataclasses.replace(resolved, **_task_fields(resolved, experiment, tokenizer, labels))
    _check_vocabulary(resolved, tokenizer)
    _check_positions(resolved, experiment)
    _check_objective(resolved, experiment)
    data = dataclasses.replace(experiment.data, labels=labels or experiment.data.labels)
    return dataclasses.replace(experiment, model=resolved, data=data)


_PROBLEM_OF_LABELS: dict[LabelType, ProblemType] = {
    "category": "single_label_classification",
    "number": "regression",
    "multi_label": "multi_label_classification",
}


class _AnyTokenizer:
    """A tokenizer that lacks nothing: what is refused with it is refused with every tokenizer."""

    vocab_size = 1
    cls_id = 0


def resolve_before_data(experiment: Experiment) -> Experiment:
    """The experiment as it may be once its data are known, for checks that need not wait for them.

    Its vocabulary is too small, and labels that the data would name have other names.

    Raises:
      ValueError: what `resolve` refuses whatever the tokenizer and the labels are.
    """
    labels = experiment.data.labels
    if has_labels(experiment.data, experiment.objective):
        labels = labels or tuple(map(str, range(experiment.model.num_labels or 2)))
    return resolve(experiment, cast("Tokenizer", _AnyTokenizer()), labels)


def _longest_row(experiment: Experiment) -> int:
    """Tokens of the longest row that a stack reads; an encoder-decoder reads sources and targets apart."""
    model, length = experiment.model, experiment.data.sequence_length
    target = target_length(experiment)
    # Only learned positions have a table, which must reach the target's end.
    has_table = target is not None and model.encoder_layers is not None and model.positions == "learned"
    return max(length, target) if target is not None and has_table else length


def target_length(experiment: Experiment) -> int | None:
    """The most tokens of a target that is separate from what is read; None: there is no such target."""
    find = experiment.definition.data.target_length
    return None if find is None else find_function(find)(experiment.data)


def _task_fields(
    model: ModelConfig, experiment: Experiment, tokenizer: "Tokenizer", labels: tuple[str, ...]
) -> dict[str, Any]:
    """The head's classes, and its pooling of a row that has neither a [CLS] nor a direction."""
    head = experiment.definition.head
    if head not in ("classification", "token_classification"):
        return {}
    num_labels = len(labels) or 2
    is_row, label_type = head == "classification", experiment.data.label_type
    if is_row and label_type == "number":
        num_labels = 1
    require(
        model.num_labels in (None, num_labels),
        f"model.num_labels={model.num_labels} contradicts the data, which has {num_labels}; leave it None",
    )
    fields: dict[str, Any] = {"num_labels": num_labels}
    if is_row:
        fields["problem_type"] = _problem_type(model, label_type)
        if not model.causal and tokenizer.cls_id is None:
            fields["pooling"] = _filled(model.pooling, "mean")
    return fields


def _problem_type(model: ModelConfig, label_type: LabelType) -> ProblemType | None:
    """The head's problem_type for config.json; with one label to an example, or numbers, it may stay None."""
    problem = _PROBLEM_OF_LABELS[label_type]
    require(
        model.problem_type in (None, problem),
        f"model.problem_type={model.problem_type} contradicts data.label_type={label_type}, which makes it "
        f"{problem}; leave it None, or use another data.label_type",
    )
    return problem if label_type == "multi_label" else model.problem_type


def _filled(value: Any, derived: Any) -> Any:
    return derived if value is None else value


def _check_specials(experiment: Experiment, tokenizer: "Tokenizer") -> None:
    """Checks all but tasks. Preparation checks them, since a task's model may be imported without [CLS]."""
    if experiment.definition.is_task or isinstance(tokenizer, _AnyTokenizer):
        return
    lacking = lacking_tokens(tokenizer, experiment.objective, experiment.data)
    trained = "wordpiece" if experiment.definition.data.frames_two_texts else "bpe"
    require(
        not lacking,
        f"objective={experiment.objective} needs the token {' and '.join(lacking)}, which the tokenizer "
        f"lacks; use data.tokenizer={trained}, or another objective",
    )


def _check_vocabulary(model: ModelConfig, tokenizer: "Tokenizer") -> None:
    assert model.vocab_size is not None
    require(
        model.vocab_size >= tokenizer.vocab_size,
        f"model.vocab_size={model.vocab_size} is smaller than the tokenizer's {tokenizer.vocab_size} ids; "
        f"use at least {tokenizer.vocab_size}, or None",
    )


def _check_positions(model: ModelConfig, experiment: Experiment) -> None:
    assert model.max_positions is not None
    data, target = experiment.data, target_length(experiment)
    if experiment.definition.is_task and target is not None and model.encoder_layers is None:
        check_prompt_room(data)  # prompt and target share a row
    if model.positions != "learned":
        return
    length = data.sequence_length
    require(
        length <= model.max_positions,
        f"data.sequence_length={length} is longer than model.max_positions={model.max_positions}; "
        f"lower data.sequence_length, or raise model.max_positions to {length}",
    )
    if target is None:
        return
    # A task is told how long its targets may be; other objectives cut theirs from the row.
    if experiment.definition.is_task:
        field, what = "data.target_length", f"data.target_length={target} is"
    else:
        field, what = "data.sequence_length", f"a target of {experiment.objective}, up to {target} tokens, is"
    require(
        target <= model.max_positions,
        f"{what} longer than model.max_positions={model.max_positions}; "
        f"lower {field}, or raise model.max_positions to {target}",
    )


def _check_objective(model: ModelConfig, experiment: Experiment) -> None:
    objective, definition = experiment.objective, experiment.definition
    require(
        model.encoder_layers is None or definition.encoder != "none",
        f"model.encoder_layers={model.encoder_layers} makes an encoder-decoder, which objective={objective} "
        "cannot train; leave it None",
    )
    require(
        model.encoder_layers is not None or definition.encoder != "must",
        f"model.encoder_layers=None makes no encoder-decoder, which objective={objective} needs; give it the "
        "number of the encoder's layers",
    )
    causal = model.causal if definition.causal is None else definition.causal
    require(
        model.head in {row.head for row in OBJECTIVES.values()},
        f"model.head={model.head} is trained by no objective; use {definition.head} with "
        f"objective={objective}",
    )
    require(
        model.head == definition.head,
        f"model.head={model.head} contradicts objective={objective}, which needs {definition.head}; "
        "leave it None",
    )
    require(
        model.causal == causal,
        f"model.causal={model.causal} contradicts objective={objective}, which needs {causal}; leave it None",
    )
    require(
        definition.reads_prefix or not model.bidirectional_prefix,
        f"model.bidirectional_prefix=True contradicts objective={objective}, which has no prefix; leave it "
        "None",
    )
    require(
        not definition.mixes_directions or model.positions != "relative",
        f"model.positions=relative cannot serve objective={objective}: it tells distances apart "
        "differently in causal rows; use rotary or learned",
    )
    require(
        definition.head != "mlm_nsp" or model.num_segments != 1,
        "model.num_segments=1 is too few for the two segments of objective=mlm_nsp; use 2, or 0 for none",
    )
