"""Fills the gaps of a text with an encoder: the likeliest token at each mask token."""

# T tokens, k candidates

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from flaxmill.data.tokenization import Tokenizer
from flaxmill.model.generation.mask_filling import check_fills, predict_masks
from flaxmill.sharding.placement import num_row_shards, place_rows
from flaxmill.train.inference.text_model import TextModel, read_prompts


class Candidate(NamedTuple):
    """One token for a gap, its text, and its probability."""

    token: int
    text: str
    probability: float


class Filled(NamedTuple):
    """A prompt with its gaps filled, the tokens that fill them, and the candidates for each, best first."""

    text: str
    tokens: list[int]
    candidates: list[list[Candidate]]


def fill_gaps(model: TextModel, prompts: Sequence[str], num_candidates: int) -> list[Filled]:
    """Fill every mask token of every prompt, each as if the others stayed masked.

    Raises:
      ValueError: the model fills no gaps, or a prompt has none or is longer than the model.
    """
    check_fills(model.config)
    mask_id = model.tokenizer.mask_id
    if mask_id is None:
        raise ValueError("the tokenizer has no mask token; name it as mask_token in tokenizer_config.json")
    rows = read_prompts(model, prompts)
    _check_rows(model, rows, mask_id)
    batch = _padded(rows + [rows[0]] * (-len(rows) % num_row_shards(model.mesh)), model.tokenizer.pad_id or 0)
    with jax.set_mesh(model.mesh):
        placed = place_rows(model.mesh, batch, len(batch["tokens"]))
        ids_BTk, probabilities_BTk = predict_masks(model.config, model.params, placed, num_candidates)
    return [
        _fill(model.tokenizer, row, mask_id, ids_BTk[number], probabilities_BTk[number])
        for number, row in enumerate(rows)
    ]


def _fill(
    tokenizer: Tokenizer, row: list[int], mask_id: int, ids_Tk: np.ndarray, probabilities_Tk: np.ndarray
) -> Filled:
    gaps = [place for place, token in enumerate(row) if token == mask_id]
    filled = [int(ids_Tk[place, 0]) if token == mask_id else token for place, token in enumerate(row)]
    candidates = [
        [
            Candidate(int(id_), tokenizer.decode([int(id_)], skip_specials=False), float(probability))
            for id_, probability in zip(ids_Tk[place], probabilities_Tk[place], strict=True)
        ]
        for place in gaps
    ]
    return Filled(tokenizer.decode(filled), [filled[place] for place in gaps], candidates)


def _check_rows(model: TextModel, rows: list[list[int]], mask_id: int) -> None:
    limit = model.config.max_positions if model.config.positions == "learned" else None
    spelling = model.tokenizer.inner.id_to_token(mask_id)
    for number, row in enumerate(rows):
        if mask_id not in row:
            raise ValueError(f"prompt {number} has no gap: an encoder fills {spelling}; put one into it")
        if limit is not None and len(row) > limit:
            raise ValueError(
                f"prompt {number} of {len(row)} tokens exceeds model.max_positions={limit}; shorten it"
            )


def _padded(rows: list[list[int]], pad_id: int) -> dict[str, np.ndarray]:
    shape = len(rows), max(map(len, rows))
    tokens_BT, mask_BT = np.full(shape, pad_id, np.int32), np.zeros(shape, np.int32)
    for row, ids in enumerate(rows):
        tokens_BT[row, : len(ids)] = ids
        mask_BT[row, : len(ids)] = 1
    return {"tokens": tokens_BT, "mask": mask_BT}
