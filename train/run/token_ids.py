"""The special tokens of a model that was trained with a tokenizer: what generation and export ask for."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from flaxmill.data.conversations.rendering import find_turn_end
from flaxmill.data.tokenization import Tokenizer
from flaxmill.model.config import ModelConfig


def with_token_ids(model: ModelConfig, tokenizer: Tokenizer, *, converses: bool = False) -> ModelConfig:
    """The model with the token ids that it leaves open, and with the end token of its training.

    A model that comes with end tokens keeps them all; if the end token that training wrote is not among them,
    it becomes the first.

    Args:
      converses: it was trained on conversations, whose turns end with a token of their own.
    """
    ends = with_turn_end(model.end_ids, tokenizer) if converses else model.end_ids
    if model.head == "lm" and tokenizer.closing_id is not None and tokenizer.closing_id not in ends:
        ends = (tokenizer.closing_id, *ends)
    return dataclasses.replace(
        model,
        pad_id=tokenizer.pad_id if model.pad_id is None else model.pad_id,
        bos_id=tokenizer.roles.get("bos") if model.bos_id is None else model.bos_id,
        eos_id=ends[0] if ends else tokenizer.end_id,
        eos_ids=ends if len(ends) > 1 else (),
    )


def with_turn_end(ends: Sequence[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The end tokens, and first the one that ends the assistant's turns of a conversation."""
    end = find_turn_end(tokenizer)
    return tuple(ends) if end is None or end in ends else (end, *ends)


def read_ids(settings: Mapping[str, Any], name: str) -> list[int]:
    """Token ids of a setting that is an id, a list of ids, or absent; raises ValueError for anything else."""
    value = settings.get(name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(id_, int) and not isinstance(id_, bool) and 0 <= id_ < 2**31 for id_ in ids):
        raise ValueError(
            f"generation_config.json: {name}={value!r:.60} holds something that is not a token id; correct it"
        )
    return ids


def end_ids(
    settings: Mapping[str, Any], model: ModelConfig, tokenizer: Tokenizer, *, is_run: bool
) -> tuple[int, ...]:
    """The tokens that end a generated text: the end tokens of generation_config.json, or else of config.json.
    For a run, or a model that names none, the token that ended texts in training is added."""
    ends = read_ids(settings, "eos_token_id") or list(model.end_ids)
    if (is_run or not ends) and tokenizer.closing_id is not None:
        ends = [*ends, tokenizer.closing_id]
    return tuple(sorted(set(ends)))
