"""Draws which places are masked and by what (Devlin et al. 2019), for a whole batch at once."""

from typing import NamedTuple

import numpy as np

from flaxmill.data import draws
from flaxmill.data.config import DataConfig, Masking
from flaxmill.data.corruption.unit_choice import choose_units, find_words

_MASK_SHARE, _KEPT_SHARE = 0.8, 0.1


class Masked(NamedTuple):
    """tokens [n,T] as the model sees them; chosen [n,T]: the places where it must predict the original."""

    tokens: np.ndarray
    chosen: np.ndarray


def max_predictions(sequence_length: int, mask_rate: float) -> int:
    """The most places that mask_tokens masks in a row of this length: 19 of 128 at a rate of 0.15."""
    return min(sequence_length, max(1, round(mask_rate * sequence_length)))


def most_masked(config: DataConfig) -> int:
    """The most places that are masked in a row of this config."""
    return max_predictions(config.sequence_length, config.mask_rate)


def mask_tokens(
    tokens: np.ndarray,
    is_real: np.ndarray,
    is_special: np.ndarray,
    *,
    mask_rate: float,
    mask_id: int,
    vocab_size: int,
    keys: np.ndarray,
    unit: Masking = "tokens",
    documents: np.ndarray | None = None,
    joined: np.ndarray | None = None,
) -> Masked:
    """Masks round(mask_rate * length) of each row's places, at least 1; length counts special tokens.

    Special tokens (looked up in is_special [vocab_size]) are never chosen. 80% of the chosen
    become the mask, 10% stay, 10% become a word drawn from the whole vocabulary, each piece on its own;
    of a span all do the same. Units of whole words may leave a few of these places over.

    Args:
      keys: uint64 [n], one for each row's draws.
      unit: what is chosen: tokens, whole words, spans or n-grams of whole words.
      documents, joined: [n,T], needed for whole words, see `find_words`.
    """
    may_mask = is_real & ~is_special[tokens]
    wanted = np.maximum(1, np.rint(mask_rate * is_real.sum(axis=1)))
    most = max_predictions(tokens.shape[1], mask_rate)
    num_masked = np.minimum(np.minimum(wanted, most), may_mask.sum(axis=1)).astype(np.int64)
    unit_places = None
    if unit == "tokens":
        chosen = _choose(may_mask, num_masked, most, keys)
    else:
        assert documents is not None
        assert joined is not None
        units = choose_units(find_words(may_mask, joined, documents), unit, num_masked, keys)
        chosen = units >= 0
        unit_places = units[chosen] if unit == "spans" else None

    row, place = np.nonzero(chosen)
    fate = draws.uniform(keys[row], draws.MASK_FATE, place if unit_places is None else unit_places)
    random_word = (draws.uniform(keys[row], draws.MASK_WORD, place) * vocab_size).astype(tokens.dtype)
    replacement = np.where(fate < _MASK_SHARE + _KEPT_SHARE, tokens[row, place], random_word)
    masked = tokens.copy()
    masked[row, place] = np.where(fate < _MASK_SHARE, mask_id, replacement)
    return Masked(masked, chosen)


def _choose(may_mask: np.ndarray, num_masked: np.ndarray, most: int, keys: np.ndarray) -> np.ndarray:
    """The num_masked[row] places with the smallest draws among those allowed."""
    num_places = may_mask.shape[1]
    # The low bits name the place, so that no two draws are equal; the upper bits stay random.
    place_bits = np.uint64((1 << num_places.bit_length()) - 1)
    places = np.arange(num_places, dtype=np.uint64)
    order = (draws.bits(keys[:, None], draws.MASK_ORDER, places) >> np.uint64(1) & ~place_bits) | places
    order = np.where(may_mask, order, np.uint64(0xFFFF_FFFF_FFFF_FFFF))
    smallest = np.sort(np.partition(order, most - 1, axis=1)[:, :most], axis=1)
    last = np.take_along_axis(smallest, np.maximum(num_masked - 1, 0)[:, None], axis=1)
    return may_mask & (order <= last) & (num_masked > 0)[:, None]
