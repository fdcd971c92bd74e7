"""A model as pure functions of plain parameters: initialise, count, describe, apply."""

# B batch, T tokens, D model, V vocab

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxmill.model.config import ModelConfig
from flaxmill.model.layer_plan import LAYER_GROUPS
from flaxmill.model.layers.dropout import row_keys, split_keys
from flaxmill.model.layers.dtypes import sum_dtype
from flaxmill.model.params import Params, unflatten
from flaxmill.model.transformer import Batch, Transformer, complete_batch


def init_params(config: ModelConfig, key: jax.Array) -> Params:
    """Fresh parameters, drawn as `config.initializer` says; the same key gives them on every mesh."""
    return nnx.to_pure_dict(nnx.state(Transformer(key, config)))


def abstract_params(config: ModelConfig) -> Params:
    """The parameters' shapes and dtypes, without computing them."""
    return nnx.to_pure_dict(_abstract(config)[1])


def logical_axes(config: ModelConfig) -> Params:
    """A tree like the parameters', with a tuple of logical axis names for every array."""

    def axes(path: tuple[Any, ...], variable: nnx.Variable) -> tuple[str | None, ...]:
        names = variable.get_metadata()["logical_axes"]
        stacked = any(name in LAYER_GROUPS for name in path)
        return ("layers", *names) if stacked else names

    flat = nnx.to_flat_state(_abstract(config)[1])
    return unflatten({path: axes(path, variable) for path, variable in flat})


def count_params(config: ModelConfig, *, active: bool = False) -> int:
    """Number of parameters; rows that only pad the vocabulary do not count.

    Args:
      active: of the routed experts count only as many as a token goes to.
    """
    assert config.vocab_size is not None
    sizes_of: dict[str | None, int] = {"vocab": config.vocab_size}
    if active:
        sizes_of["experts"] = config.experts_per_token
    total = 0
    is_axes = lambda node: isinstance(node, tuple)  # noqa: E731
    axes_of = jax.tree.leaves(logical_axes(config), is_leaf=is_axes)
    for leaf, axes in zip(jax.tree.leaves(abstract_params(config)), axes_of, strict=True):
        shape: tuple[int, ...] = leaf.shape
        total += math.prod(sizes_of.get(axis, size) for axis, size in zip(axes, shape, strict=True))
    return total


def bind(config: ModelConfig, params: Params) -> Transformer:
    """The model with these parameters; any JAX transform may run through it."""
    return nnx.merge(_abstract(config)[0], params)


def apply(config: ModelConfig, params: Params, batch: Batch, key: jax.Array | None = None) -> Batch:
    """Run the model.

    Args:
      batch: int32 [B,T] `tokens`, and any of `mask` (1 = real), `documents`, `positions`, `segments`. An
        encoder-decoder also needs `decoder_tokens`, and takes `decoder_mask`, `decoder_documents` and
        `decoder_positions`.
      key: turns dropout on.

    Returns: `hidden` [B,T,D] (with an encoder the decoder's; then also `encoder_hidden`), and in float32 what
      the head gives: `logits` [B,T,V] over the true vocabulary, [B,C] for classification or [B,T,C] for
      token_classification; `nsp_logits` [B,2]; `start_logits` and `end_logits` [B,T]; `pooled` [B,D] if the
      model has no head but a pooler.
    """
    model = bind(config, params)
    full = complete_batch(config, batch)
    keys_B = None if key is None else row_keys(key, len(full["tokens"]))
    body_key, encoder_key, head_key = split_keys(keys_B, 3)
    encoded = {} if model.encoder is None else {"encoder_hidden": model.encode(full, encoder_key)}
    hidden_BTD = model(full, body_key, encoded.get("encoder_hidden"))
    return encoded | {"hidden": hidden_BTD} | _head_outputs(model, hidden_BTD, full["documents"], head_key)


def token_logits(model: Transformer, hidden: jax.Array) -> jax.Array:
    """float32 logits [..., V] over the true vocabulary, from hidden states [..., D]."""
    decoded = model.before_output(hidden)
    table_VD, bias_V = model.output_table()
    logits = jnp.einsum(
        "...D,VD->...V", decoded, table_VD.astype(decoded.dtype), preferred_element_type=sum_dtype(decoded)
    )
    logits = logits if bias_V is None else logits + bias_V
    return logits[..., : model.config.vocab_size]


def _head_outputs(
    model: Transformer, hidden_BTD: jax.Array, documents_BT: jax.Array, key: jax.Array | None
) -> Batch:
    match model.config.head:
        case "lm" | "mlm":
            return {"logits": token_logits(model, hidden_BTD)}
        case "mlm_nsp":
            pooled_BD = model.pool(hidden_BTD, documents_BT)
            nsp = model.next_sentence_logits(pooled_BD)
            return {"logits": token_logits(model, hidden_BTD), "nsp_logits": nsp}
        case "qa":
            logits_BTC = model.class_logits(hidden_BTD, documents_BT, key)
            return {"start_logits": logits_BTC[..., 0], "end_logits": logits_BTC[..., 1]}
        case "classification" | "token_classification":
            return {"logits": model.class_logits(hidden_BTD, documents_BT, key)}
    return {} if model.pooler is None else {"pooled": model.pool(hidden_BTD, documents_BT)}


@functools.lru_cache(maxsize=64)
def _abstract(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    # The key is made inside, since abstract evaluation must not touch a device.
    return nnx.split(nnx.eval_shape(lambda: Transformer(jax.random.key(0), config)))
