"""The experiment that measures a model: a run's own, or what a Hugging Face directory amounts to."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxmill.data.config import MIN_SEQUENCE_LENGTH, DataConfig
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.reading import LACKS_TOKENIZER, find_tokenizer
from flaxmill.model.config import ModelConfig
from flaxmill.model.huggingface.directory import read_huggingface_config
from flaxmill.train.experiment import Experiment, describe_changed_objective
from flaxmill.train.inference.other_data import OtherData, on_other_data
from flaxmill.train.metrics.progress import warn
from flaxmill.train.run.directory import TOKENIZER_FILE, read_trained_config
from flaxmill.train.run.importing import imported_experiment
from flaxmill.train.run.source import is_huggingface

# For a Hugging Face model, which says nothing about its training; the last two as in transformers' examples.
LONGEST_ROW, TARGET_LENGTH, STRIDE = 1024, 128, 128


def read_experiment(source: Path, other: OtherData | None, lengths: Mapping[str, Any]) -> Experiment:
    """The experiment that measures a run or a Hugging Face model on its own data or on other data.

    Raises:
      ValueError: as `evaluate_run` does.
    """
    if not is_huggingface(source):
        experiment, tokenizer = read_trained_config(source), source / TOKENIZER_FILE
        if changed := describe_changed_objective(experiment):
            warn(changed)
        data = dataclasses.replace(experiment.data, **lengths)
        experiment = dataclasses.replace(experiment, data=data)
        _check_lengths(experiment.model, data, lengths)
    else:
        if other is None:
            raise ValueError(f"{source} is not a run, so it has no held-out data; add --data FILE")
        tokenizer = find_tokenizer(source)
        if tokenizer is None:
            raise ValueError(f"{source} {LACKS_TOKENIZER}; put the model's own there")
        model = read_huggingface_config(source)
        own = _own_lengths(model, Tokenizer.load(tokenizer))
        experiment = imported_experiment(source, model, tokenizer, {**own, **lengths})
        _check_lengths(model, experiment.data, lengths)
    return experiment if other is None else on_other_data(experiment, other, tokenizer)


def _check_lengths(model: ModelConfig, data: DataConfig, lengths: Mapping[str, Any]) -> None:
    """Raise ValueError where a length that was asked for is more than the model, or a row, has."""
    longest = model.max_positions if model.positions == "learned" else None
    for name in ("sequence_length", "target_length"):
        if longest is not None and lengths.get(name, 0) > longest:
            raise ValueError(
                f"{name}={lengths[name]} is longer than the {longest} tokens that this model reads; lower it"
            )
    if model.head == "qa" and lengths.get("stride", 0) >= data.sequence_length:
        raise ValueError(
            f"stride={data.stride} leaves nothing new in a window of sequence_length={data.sequence_length}; "
            f"lower stride, for example to {data.sequence_length // 3}"
        )


def _own_lengths(model: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """How much a Hugging Face model reads of a text unless told otherwise, if any machine can compute it."""
    known = [model.max_positions, tokenizer.max_length, LONGEST_ROW]
    longest = max(MIN_SEQUENCE_LENGTH, min(length for length in known if length is not None))
    return {
        "sequence_length": longest,
        "target_length": min(TARGET_LENGTH, longest),
        "stride": min(STRIDE, longest // 3),
    }
