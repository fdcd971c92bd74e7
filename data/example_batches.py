"""Stored rows of labelled examples as what a batch holds for their objective."""

from typing import NamedTuple

import numpy as np

from flaxmill.data.prepared.dataset import Dataset

# n rows, T tokens of a row, S of a source, U of a target

Batch = dict[str, np.ndarray]
Stored = dict[str, np.ndarray]

NO_EXAMPLE = -1
"""`example_numbers` of a row beyond the end of a held-out split."""


class TargetTokens(NamedTuple):
    """What a decoder reads first, and at its padding."""

    start_id: int
    pad_id: int


def target_tokens(dataset: Dataset, decoder_start_id: int | None) -> TargetTokens:
    """The model's start token; None: the pad token, as T5 and Marian start, or else the end token."""
    tokenizer = dataset.tokenizer
    known = (decoder_start_id, tokenizer.pad_id, tokenizer.closing_id)
    start_id = next((id_ for id_ in known if id_ is not None), 0)
    return TargetTokens(start_id, tokenizer.pad_id or 0)


def make_example_batch(
    stored: Stored, dataset: Dataset, decoder: TargetTokens, class_weights: np.ndarray
) -> Batch:
    """The batch of stored rows [n,...], before rows beyond the end are blanked; see Batches.rows."""
    match dataset.layout:
        case "labelled":
            batch = _inputs(stored) | {"segments": stored["segments"], "labels": stored["label"]}
            batch["weights"] = _label_weights(stored["label"], dataset, class_weights)
            if dataset.settings["pair_column"] is None:
                del batch["segments"]
        case "tagged":
            has_tag = stored["tags"] >= 0
            batch = _inputs(stored) | {"targets": np.where(has_tag, stored["tags"], 0), "weights": has_tag}
        case "answers":
            batch = _inputs(stored) | {
                "segments": stored["segments"],
                "starts": stored["start"],
                "ends": stored["end"],
                "weights": np.ones(len(stored["start"]), bool),
            }
        case "sources":
            batch = _inputs(stored) | _decoder_inputs(stored, decoder)
        case _:
            batch = _prompts(stored)
    return batch | {"example_numbers": stored["number"]}


def check_class_weights(weights: tuple[float, ...], labels: tuple[str, ...]) -> np.ndarray:
    """A weight for each label, ready to be indexed.

    Raises:
      ValueError: there are more or fewer than labels.
    """
    if weights and len(weights) != len(labels):
        raise ValueError(
            f"data.class_weights={', '.join(map(str, weights))} must be one number of 0 or more for each of "
            f"the {len(labels)} labels ({', '.join(labels)})"
        )
    return np.asarray(weights or (1.0,) * len(labels), np.float32)


def _label_weights(labels: np.ndarray, dataset: Dataset, class_weights: np.ndarray) -> np.ndarray:
    """[n]: what each example counts; nothing where its label is unknown."""
    if dataset.settings["label_column"] is None:
        return np.zeros(len(labels), np.float32)
    is_category = dataset.settings["label_type"] == "category"
    return class_weights[labels] if is_category else np.ones(len(labels), np.float32)


def _inputs(stored: Stored) -> Batch:
    return _read_left_to_right(stored["tokens"].astype(np.int32), stored["length"])


def _read_left_to_right(tokens: np.ndarray, lengths: np.ndarray) -> Batch:
    """Right-padded rows of one document each."""
    places = np.arange(tokens.shape[1])
    mask = (places < lengths[:, None]).astype(np.int32)
    return {"tokens": tokens, "mask": mask, "positions": places * mask, "documents": mask}


def _decoder_inputs(stored: Stored, decoder: TargetTokens) -> Batch:
    """[n,U]: the target shifted right behind the start token, and the target itself."""
    targets = stored["target"].astype(np.int32)
    has_target = np.arange(targets.shape[1]) < stored["target_length"][:, None]
    shifted = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=decoder.start_id)
    # The start token is there also where the target is unknown and a decoder has yet to write it.
    mask = has_target | (np.arange(targets.shape[1]) == 0)
    return {
        "decoder_tokens": np.where(mask, shifted, decoder.pad_id),
        "decoder_mask": mask,
        "targets": np.where(has_target, targets, 0),
        "weights": has_target,
    }


def _prompts(stored: Stored) -> Batch:
    """A causal batch whose targets count behind the prompt alone: the prompt is tokens[:, :p] where p - 1 is
    the first place with weight, or all real tokens where there is none."""
    tokens = stored["tokens"].astype(np.int32)
    length, prompt_length = stored["length"][:, None], stored["prompt_length"][:, None]
    places = np.arange(tokens.shape[1] - 1)
    counts = (places + 1 >= prompt_length) & (places + 1 < length)
    # The last token of a row with a target is only ever a target.
    is_known = length > prompt_length
    batch = _read_left_to_right(tokens[:, :-1], stored["length"] - is_known[:, 0])
    return batch | {"targets": np.where(counts, tokens[:, 1:], 0), "weights": counts}
