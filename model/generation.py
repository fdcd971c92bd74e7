"""Text out of a causal model, and words into an encoder's gaps."""

# B batch, T tokens, V vocab

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.model.apply import Params, apply, bind, token_logits
from flaxmill.model.config import ModelConfig
from flaxmill.model.transformer import Batch, complete_batch


def generate(
    config: ModelConfig,
    params: Params,
    prompts_BT: np.ndarray,
    *,
    num_tokens: int,
    window: int,
    seed: int = 0,
    temperature: float = 0.8,
    top_k: int = 40,
) -> np.ndarray:
    """Sample a continuation of each prompt, from its `top_k` likeliest tokens at each place.

    The whole window runs again for every token: one compiled shape, no cache.

    Args:
      prompts_BT: int32, prompts of equal length.
      window: most tokens that the model reads at once; what is older is forgotten.

    Returns: int32 [B, num_tokens], the new tokens alone.
    """
    texts_BT = np.asarray(prompts_BT, np.int32)
    start = texts_BT.shape[1]
    assert start > 0, "a prompt has at least one token"
    for index in range(num_tokens):
        visible_BT = texts_BT[:, -window:]
        padded_BT = np.pad(visible_BT, ((0, 0), (0, window - visible_BT.shape[1])))
        key = jax.random.fold_in(jax.random.key(seed), index)
        last = visible_BT.shape[1] - 1
        next_B = _next_token(config, top_k, params, padded_BT, last, key, temperature)
        texts_BT = np.concatenate([texts_BT, np.asarray(next_B)[:, None]], axis=1)
    return texts_BT[:, start:]


def fill_masks(config: ModelConfig, params: Params, batch: Batch, mask_id: int) -> np.ndarray:
    """`tokens` [B,T] with the likeliest token at every place that holds `mask_id`."""
    best_BT = np.asarray(_best_tokens(config, params, batch))
    tokens_BT = np.asarray(batch["tokens"])
    return np.where(tokens_BT == mask_id, best_BT, tokens_BT)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _next_token(
    config: ModelConfig,
    top_k: int,
    params: Params,
    tokens_BT: jax.Array,
    last: jax.Array,
    key: jax.Array,
    temperature: float,
) -> jax.Array:
    config = dataclasses.replace(config, causal=True)  # a hybrid model attends as its rows ask
    model = bind(config, params)
    hidden_BTD = model(complete_batch(config, {"tokens": tokens_BT}))
    logits_BV = token_logits(model, hidden_BTD[:, last][:, None])[:, 0]
    best_Bk, ids_Bk = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[-1]))
    choice_B = jax.random.categorical(key, best_Bk / temperature)
    return jnp.take_along_axis(ids_Bk, choice_B[:, None], 1)[:, 0]


@functools.partial(jax.jit, static_argnums=0)
def _best_tokens(config: ModelConfig, params: Params, batch: Batch) -> jax.Array:
    return apply(config, params, batch)["logits"].argmax(-1)
