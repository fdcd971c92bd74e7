"""A model that reads whole prompts once and then token by token, because its layers keep what they read."""

# B batch, P prompt tokens, S source tokens or cache slots, D model, N heads, K key-value heads, H head dim

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxmill.model.fields import LayerKind
from flaxmill.model.generation.layer_cache import LayerCache, append_to_cache, attend_to_cache, fill_cache
from flaxmill.model.generation.unrolled_model import UnrolledModel
from flaxmill.model.layer import Attend, AttentionInputs, Layer
from flaxmill.model.layer_plan import layer_kinds
from flaxmill.model.layers.dense import few_rows_product
from flaxmill.model.layers.positions import Turns, rotary_turns
from flaxmill.model.layers.visibility import Visibility
from flaxmill.model.stack import Batch
from flaxmill.model.transformer import complete_batch
from flaxmill.sharding.rules import constrain


class Cache(NamedTuple):
    """What has been read of each row."""

    layers: tuple[LayerCache, ...]
    index: jax.Array
    """int32 []: number of the next token, the same in all rows since prompts are padded on the left."""
    first: jax.Array
    """int32 [B]: number of each row's first token."""


class EncodedSource(NamedTuple):
    """What a decoder's layers attend to in an encoder's output: documents [B,S], and each layer's keys and
    values [B,S,K,H]."""

    documents: jax.Array
    layers: tuple[tuple[jax.Array, jax.Array], ...]


def read_source(model: UnrolledModel, tokens_BS: jax.Array, mask_BS: jax.Array) -> EncodedSource:
    """Run the encoder on sources; mask is 0 at padding and 1 elsewhere."""
    unread_B1 = jnp.zeros_like(tokens_BS[:, :1])
    given = {"tokens": tokens_BS, "mask": mask_BS, "decoder_tokens": unread_B1}
    batch = complete_batch(model.body.config, given)
    encoded_BSD = model.body.encode(batch)

    def keys_and_values(layer: Layer) -> tuple[jax.Array, jax.Array]:
        assert layer.cross_attention is not None
        return layer.cross_attention.keys_and_values(encoded_BSD, None)

    return EncodedSource(batch["documents"], tuple(map(keys_and_values, model.layers)))


def read_prompt(
    model: UnrolledModel,
    tokens_BP: jax.Array,
    first_B: jax.Array,
    num_slots: int,
    source: EncodedSource | None,
) -> tuple[jax.Array, Cache]:
    """float32 logits [B,V] of the token after each prompt, and the cache, for rows of up to `num_slots`.

    Args:
      tokens_BP: prompts that end at the last place; tokens before number `first_B` are padding.
      source: what `read_source` returned, for an encoder-decoder.
    """
    index_BP = jnp.broadcast_to(jnp.arange(tokens_BP.shape[1]), tokens_BP.shape)
    batch = _batch(model, tokens_BP, jnp.maximum(index_BP - first_B[:, None], 0))
    batch["documents"] = (index_BP >= first_B[:, None]).astype(jnp.int32)
    if model.body.config.bidirectional_prefix:
        batch["prefix"] = jnp.full(len(tokens_BP), tokens_BP.shape[1], jnp.int32)  # the whole prompt
    inputs = model.body.attention_inputs(batch, None, None)
    x_BPD, caches = model.body.embed(batch, None), []
    for number, (layer, kind) in enumerate(zip(model.layers, layer_kinds(model.body.config), strict=True)):
        x_BPD, cache = _read_all(layer, kind, x_BPD, inputs, num_slots, _attend_to(source, number, layer))
        caches.append(cache)
    index = jnp.int32(tokens_BP.shape[1])
    return _logits(model, x_BPD[:, -1:]), Cache(tuple(caches), index, first_B)


def read_token(
    model: UnrolledModel, tokens_B: jax.Array, cache: Cache, source: EncodedSource | None
) -> tuple[jax.Array, Cache]:
    """float32 logits [B,V] of the token after `tokens_B`, and the cache that then holds these too."""
    body, kinds = model.body, layer_kinds(model.body.config)
    positions_B1 = (cache.index - cache.first)[:, None]
    batch = _batch(model, tokens_B[:, None], positions_B1)
    rotating = sorted(set(kinds)) if body.config.positions == "rotary" else []
    # Turns by the length so far: keys in the cache keep the turns they were read with, as in transformers.
    turns = {kind: rotary_turns(body.config, kind, positions_B1, positions_B1 + 1) for kind in rotating}
    x_B1D, caches = body.embed(batch, None), []
    for number, (layer, kind, kept) in enumerate(zip(model.layers, kinds, cache.layers, strict=True)):
        bias_NS = None if body.relative_bias is None else body.relative_bias.to_past(kept.keys.shape[2])
        x_B1D, kept = _read_next(
            layer,
            x_B1D,
            kept,
            turns.get(kind),
            _attend_to(source, number, layer),
            index=cache.index,
            first_B=cache.first,
            window=_window(layer, kind),
            bias_NS=bias_NS,
        )
        caches.append(kept)
    return _logits(model, x_B1D), Cache(tuple(caches), cache.index + 1, cache.first)


def _read_all(
    layer: Layer,
    kind: LayerKind,
    x_BPD: jax.Array,
    inputs: AttentionInputs,
    num_slots: int,
    attend_to_source: Attend,
) -> tuple[jax.Array, LayerCache]:
    """Run a layer over whole prompts."""
    attention, turns = layer.attention, inputs.turns.get(kind)
    kept: list[LayerCache] = []

    def attend(x_BPD: jax.Array) -> jax.Array:
        k_BPKH, v_BPKH = attention.keys_and_values(x_BPD, turns)
        kept.append(fill_cache(k_BPKH, v_BPKH, min(num_slots, _window(layer, kind) or num_slots)))
        return attention.mix(attention.queries(x_BPD, turns), k_BPKH, v_BPKH, layer.visible(inputs, kind))

    x_BPD, _ = layer.connect(x_BPD, attend, attend_to_source, inputs.visible.documents > 0)
    return x_BPD, kept[0]


def _read_next(
    layer: Layer,
    x_B1D: jax.Array,
    cache: LayerCache,
    turns: Turns | None,
    attend_to_source: Attend,
    **seen: Any,
) -> tuple[jax.Array, LayerCache]:
    """Run a layer over one token of each row; `seen` is what `attend_to_cache` takes."""
    attention = layer.attention
    kept: list[LayerCache] = []

    def attend(x_B1D: jax.Array) -> jax.Array:
        kept.append(append_to_cache(cache, *attention.keys_and_values(x_B1D, turns), seen["index"]))
        q_B1NH = attention.queries(x_B1D, turns)
        return attention.project(attend_to_cache(q_B1NH, kept[0], scale=layer.config.logits_factor, **seen))

    x_B1D, _ = layer.connect(x_B1D, attend, attend_to_source, jnp.ones(x_B1D.shape[:2], bool))
    return x_B1D, kept[0]


def _attend_to(source: EncodedSource | None, number: int, layer: Layer) -> Attend:
    """The function by which layer `number` reads the source."""

    def attend(x_BTD: jax.Array) -> jax.Array:
        attention = layer.cross_attention
        assert attention is not None
        assert source is not None
        real_BT = jnp.ones(x_BTD.shape[:2], jnp.int32)
        visible = Visibility(real_BT, causal=False, key_documents=source.documents)
        return attention.mix(attention.queries(x_BTD, None), *source.layers[number], visible)

    return attend


def _window(layer: Layer, kind: LayerKind) -> int | None:
    return layer.config.window if kind == "local" else None


def _batch(model: UnrolledModel, tokens_BT: jax.Array, positions_BT: jax.Array) -> Batch:
    batch = {"tokens": tokens_BT, "positions": positions_BT}
    if model.body.config.num_segments:
        batch["segments"] = jnp.zeros_like(tokens_BT)
    return batch


def _logits(model: UnrolledModel, x_B1D: jax.Array) -> jax.Array:
    body = model.body
    hidden_B1D = x_B1D if body.final_norm is None else body.final_norm(x_B1D)
    decoded_BD = body.before_output(hidden_B1D)[:, 0]
    if model.columns is not None:
        logits_BV = model.columns.products(decoded_BD)
    else:
        logits_BV = few_rows_product(decoded_BD, body.output_table()[0])
    bias_V = body.output_bias()
    logits_BV = logits_BV if bias_V is None else logits_BV + bias_V
    return constrain(logits_BV[:, : body.config.vocab_size], "batch", None)
