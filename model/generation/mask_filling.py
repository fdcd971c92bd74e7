"""Fills an encoder's gaps with the words that a masked-word head finds likeliest."""

# B batch, T tokens, k candidates

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import apply
from flaxmill.model.params import Params
from flaxmill.model.transformer import Batch


class Candidates(NamedTuple):
    """The likeliest tokens at each place, best first: int32 ids and float32 probabilities, both [B,T,k]."""

    ids: np.ndarray
    probabilities: np.ndarray


def check_fills(config: ModelConfig) -> None:
    """Raises ValueError where the model has no head for masked words."""
    if config.head not in ("mlm", "mlm_nsp"):
        raise ValueError(
            f"model.head={config.head} fills no gaps and predicts no next token; use a model with the head "
            "mlm, mlm_nsp or lm"
        )


def predict_masks(config: ModelConfig, params: Params, batch: Batch, num_candidates: int) -> Candidates:
    """Candidates for every place of the rows, masked or not; at most as many as the vocabulary has."""
    ids, probabilities = _best(config, params, batch, num_candidates)
    return Candidates(np.asarray(ids), np.asarray(probabilities))


def fill_masks(config: ModelConfig, params: Params, batch: Batch, mask_id: int) -> np.ndarray:
    """`tokens` [B,T] with the likeliest token at every place that holds `mask_id`."""
    best_BT = predict_masks(config, params, batch, 1).ids[..., 0]
    tokens_BT = np.asarray(batch["tokens"])
    return np.where(tokens_BT == mask_id, best_BT, tokens_BT)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _best(
    config: ModelConfig, params: Params, batch: Batch, num_candidates: int
) -> tuple[jax.Array, jax.Array]:
    probs_BTV = jax.nn.softmax(apply(config, params, batch)["logits"])
    probs_BTk, ids_BTk = jax.lax.top_k(probs_BTV, min(num_candidates, probs_BTV.shape[-1]))
    return ids_BTk.astype(jnp.int32), probs_BTk
