"""What an experiment leaves open, filled in from its data and tokenizer, and its parts checked together."""

import dataclasses
from typing import TYPE_CHECKING, Any, cast

from flaxmill.data.config import DataConfig, LabelType, has_labels
from flaxmill.data.examples.target_rows import check_prompt_room
from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import ProblemType
from flaxmill.train.experiment import CLASS_OBJECTIVES, HEAD_OF_OBJECTIVE, Experiment, require

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
    model, objective = experiment.model, experiment.objective
    _check_specials(objective, tokenizer)
    resolved = dataclasses.replace(
        model,
        vocab_size=_filled(model.vocab_size, tokenizer.vocab_size),
        max_positions=_filled(model.max_positions, _longest_row(experiment)),
        head=_filled(model.head, HEAD_OF_OBJECTIVE[objective]),
        causal=_filled(model.causal, objective in ("causal", "seq2seq")),
    )
    resolved = dataclasses.replace(resolved, **_task_fields(resolved, experiment, tokenizer, labels))
    _check_vocabulary(resolved, tokenizer)
    _check_positions(resolved, experiment.data, objective)
    _check_objective(resolved, objective)
    data = dataclasses.replace(experiment.data, labels=labels or experiment.data.labels)
    return dataclasses.replace(experiment, model=resolved, data=data)


_PROBLEM_OF_LABELS: dict[LabelType, ProblemType] = {
    "category": "single_label_classification",
    "number": "regression",
    "multi_label": "multi_label_classification",
}


class _AnyTokenizer:
    """A tokenizer that lacks nothing: what is refused with it is refused with every one."""

    vocab_size = 1
    mask_id = cls_id = sep_id = 0


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
    model, data = experiment.model, experiment.data
    reads_apart = experiment.objective == "seq2seq" and model.encoder_layers is not None
    # Other positions than learned ones have no table that must reach the target's end.
    is_longest = reads_apart and model.positions == "learned"
    return max(data.sequence_length, data.target_length) if is_longest else data.sequence_length


def _task_fields(
    model: ModelConfig, experiment: Experiment, tokenizer: "Tokenizer", labels: tuple[str, ...]
) -> dict[str, Any]:
    """Classes of the head, and what it reads of a row that has neither a [CLS] nor a direction."""
    if experiment.objective not in ("classification", "token_classification"):
        return {}
    num_labels = len(labels) or 2
    is_row, label_type = experiment.objective == "classification", experiment.data.label_type
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
    """What is said of the head in config.json; labels of which one applies, and numbers, need no saying."""
    problem = _PROBLEM_OF_LABELS[label_type]
    require(
        model.problem_type in (None, problem),
        f"model.problem_type={model.problem_type} contradicts data.label_type={label_type}, which makes it "
        f"{problem}; leave it None, or use another data.label_type",
    )
    return problem if label_type == "multi_label" else model.problem_type


def _filled(value: Any, derived: Any) -> Any:
    return derived if value is None else value


def _check_specials(objective: str, tokenizer: "Tokenizer") -> None:
    needed = {"[MASK]": tokenizer.mask_id} if objective in ("mlm", "mlm_nsp", "hybrid") else {}
    if objective == "mlm_nsp":
        needed |= {"[CLS]": tokenizer.cls_id, "[SEP]": tokenizer.sep_id}
    lacking = [token for token, token_id in needed.items() if token_id is None]
    require(
        not lacking,
        f"objective={objective} needs the token {' and '.join(lacking)}, which the tokenizer lacks; "
        f"use data.tokenizer={'wordpiece' if objective == 'mlm_nsp' else 'bpe'}, or another objective",
    )


def _check_vocabulary(model: ModelConfig, tokenizer: "Tokenizer") -> None:
    assert model.vocab_size is not None
    require(
        model.vocab_size >= tokenizer.vocab_size,
        f"model.vocab_size={model.vocab_size} is smaller than the tokenizer's {tokenizer.vocab_size} ids; "
        f"use at least {tokenizer.vocab_size}, or None",
    )


def _check_positions(model: ModelConfig, data: DataConfig, objective: str) -> None:
    assert model.max_positions is not None
    if objective == "seq2seq" and model.encoder_layers is None:
        check_prompt_room(data)  # prompt and target share a row
    lengths = {"data.sequence_length": data.sequence_length}
    if objective == "seq2seq":
        lengths["data.target_length"] = data.target_length
    for name, length in lengths.items():
        require(
            model.positions != "learned" or length <= model.max_positions,
            f"{name}={length} is longer than model.max_positions={model.max_positions}; "
            f"lower {name}, or raise model.max_positions to {length}",
        )


def _check_objective(model: ModelConfig, objective: str) -> None:
    require(
        model.encoder_layers is None or objective == "seq2seq",
        f"model.encoder_layers={model.encoder_layers} makes an encoder-decoder, which objective={objective} "
        "cannot train; leave it None",
    )
    head = HEAD_OF_OBJECTIVE[objective]
    # What reads a whole row may do so from either side, or from one.
    causal = model.causal if objective in CLASS_OBJECTIVES else objective in ("causal", "seq2seq")
    require(
        model.head in HEAD_OF_OBJECTIVE.values(),
        f"model.head={model.head} is trained by no objective; use {head} with objective={objective}",
    )
    require(
        model.head == head,
        f"model.head={model.head} contradicts objective={objective}, which needs {head}; leave it None",
    )
    require(
        model.causal == causal,
        f"model.causal={model.causal} contradicts objective={objective}, which needs {causal}; leave it None",
    )
    require(
        objective != "hybrid" or model.positions != "relative",
        "model.positions=relative cannot serve objective=hybrid: its distances are told apart otherwise in "
        "causal rows; use rotary or learned",
    )
    require(
        objective != "mlm_nsp" or model.num_segments != 1,
        "model.num_segments=1 is too few for the two segments of objective=mlm_nsp; use 2, or 0 for none",
    )
