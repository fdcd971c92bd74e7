"""How much arithmetic a training step takes, and what share of the hardware's peak it reaches."""

from collections.abc import Iterator
from typing import NamedTuple

from flaxmill.model.config import ModelConfig, encoder_config
from flaxmill.model.fields import LayerKind
from flaxmill.model.layer_plan import layer_kinds, layers_with_experts
from flaxmill.sharding.hardware.chips import chip_of_kind

BACKWARD = 2  # gradients of the inputs and of the weights, each as much as the forward pass
FROZEN_BACKWARD = 1  # gradients of the inputs alone, where LoRA trains other weights
RESULTS = {"attention_output": "out", "mlp_up": "up", "mlp_gate": "gate", "mlp_output": "down"}
"""Products by the names of their results."""


class StepFlops(NamedTuple):
    """FLOPs of one step. For MFU these are the model's, recomputation not counted (Chowdhery et al. 2022,
    appendix B)."""

    full: float
    """Attention counted over all pairs of places (within the window of a local layer), as most published
    figures do."""
    causal: float
    """Attention of a causal model counted over the half that it may see."""


class _Product(NamedTuple):
    """A matrix product of layers, by every token of a row: [tokens, inputs] x [inputs, outputs]."""

    name: str
    layers: int
    """How many layers have it."""
    tokens: int
    """Tokens of a row; an expert's, once for each expert that a token goes to."""
    inputs: int
    outputs: int


class _Row(NamedTuple):
    """A stack of layers, and the tokens of a row: those that it runs on, and the encoder's, if it has one."""

    config: ModelConfig
    num_tokens: int
    num_encoded: int | None = None


def step_flops(
    config: ModelConfig,
    batch_size: int,
    num_tokens: int,
    predictions: int | None = None,
    target_tokens: int | None = None,
) -> StepFlops:
    """FLOPs of one update on [batch_size, num_tokens], with a head on `predictions` places of a row.

    What `optimizer.freeze` saves is not subtracted. Of experts those count that a token goes to, and neither
    what a capacity loses nor empty slots.

    Args:
      target_tokens: tokens of a row that an encoder-decoder's decoder reads; None: as many as the encoder.
    """
    rows = _rows(config, num_tokens, target_tokens)
    places = rows[-1].num_tokens if predictions is None else predictions
    backward = BACKWARD if config.lora_rank is None else FROZEN_BACKWARD
    weights = sum(_weights(product) for row in rows for product in _products(row))
    adapters = sum(_adapters(row, product) for row in rows for product in _products(row))
    products = (1 + backward) * (2 * batch_size * weights + head_flops(config, batch_size, places))
    products += (1 + BACKWARD) * 2 * batch_size * adapters
    pairs = [_pairs(row) for row in rows]
    full, causal = ((1 + BACKWARD) * batch_size * sum(counts) for counts in zip(*pairs, strict=True))
    return StepFlops(products + full, products + causal)


def recomputed_flops(
    config: ModelConfig, batch_size: int, num_tokens: int, target_tokens: int | None = None
) -> StepFlops:
    """FLOPs that the backward pass spends on computing the layers again, as `config.remat` says.

    full: all of a layer but the last product, whose result no gradient needs. dots: attention alone, since
    the other products are kept. What a fused attention kernel computes again inside is not counted, nor are
    the logits of a loss in several chunks (`head_flops`).
    """
    if config.remat == "none":
        return StepFlops(0.0, 0.0)
    rows, names = _rows(config, num_tokens, target_tokens), _made_again(config)
    products = [(row, product) for row in rows for product in _products(row) if product.name in names]
    again = 2 * batch_size * sum(_weights(item[1]) + _adapters(*item) for item in products)
    pairs = [_pairs(row) for row in rows]
    full, causal = (batch_size * sum(counts) for counts in zip(*pairs, strict=True))
    return StepFlops(again + full, again + causal)


def chunked_flops(config: ModelConfig, batch_size: int, num_tokens: int) -> float:
    """FLOPs that experts spend on computing chunks of tokens again, beyond `recomputed_flops`: of a chunk
    nothing is kept (model/layers/expert_exchange.py)."""
    tokens, again = num_tokens * config.experts_per_token, _made_again(config)
    products = _mlp_products(config, layers_with_experts(config), tokens, config.expert_hidden_dim)
    return 2 * batch_size * sum(_weights(one) for one in products if one.name not in {"down", *again})


def head_flops(config: ModelConfig, batch_size: int, places: int) -> float:
    """FLOPs of the head's forward pass on `places` of each row."""
    D = config.embed_dim
    square = D * D if config.pooler_kind != "none" else 0
    if config.head in ("lm", "mlm", "mlm_nsp"):
        transform = 0 if config.head == "lm" else D * D
        return 2 * batch_size * (places * (D * config.padded_vocab_size + transform) + square)
    if config.num_classes is None:
        return 0.0
    return (
        2
        * batch_size
        * (1 if config.head == "classification" else places)
        * (square + D * config.num_classes)
    )


def peak_flops(kinds: list[str]) -> float | None:
    """Sum of the bfloat16 peaks of devices of these kinds; None where one is unknown, such as a CPU."""
    chips = [chip_of_kind(kind) for kind in kinds]
    return None if None in chips else sum(chip.peak_flops for chip in chips if chip)


def _rows(config: ModelConfig, num_tokens: int, target_tokens: int | None) -> list[_Row]:
    if config.encoder_layers is None:
        return [_Row(config, num_tokens)]
    decoded = num_tokens if target_tokens is None else target_tokens
    return [_Row(encoder_config(config), num_tokens), _Row(config, decoded, num_tokens)]


def _products(row: _Row) -> Iterator[_Product]:
    """The products of the layers, in the order in which a layer computes them."""
    config, T, S = row
    D, L = config.embed_dim, config.num_layers
    heads, kv_heads = (config.dim_per_head * count for count in (config.num_heads, config.kv_heads))
    for read in (T, S):  # the tokens themselves, then the encoder's
        if read is not None:
            yield from (_Product("query", L, T, D, heads), _Product("out", L, T, heads, D))
            yield from (_Product(name, L, read, D, kv_heads) for name in ("key", "value"))
    sparse, F = layers_with_experts(config), config.expert_hidden_dim
    yield from _mlp_products(config, L - sparse, T, config.hidden_dim)
    if config.num_experts is not None:
        yield _Product("router", sparse, T, D, config.num_experts)
        yield from _mlp_products(config, sparse, T * config.experts_per_token, F)
        yield from _mlp_products(config, sparse, T, F * config.shared_experts)


def _mlp_products(config: ModelConfig, layers: int, tokens: int, hidden: int) -> Iterator[_Product]:
    wide = ("gate", "up") if config.gated_mlp else ("up",)
    yield from (_Product(name, layers, tokens, config.embed_dim, hidden) for name in wide)
    yield _Product("down", layers, tokens, hidden, config.embed_dim)


def _weights(product: _Product) -> int:
    """Tokens times weights of a product, over all layers."""
    return product.layers * product.tokens * product.inputs * product.outputs


def _adapters(row: _Row, product: _Product) -> int:
    """The same of LoRA's two factors beside it: rank x (inputs + outputs)."""
    config = row.config
    if config.lora_rank is None or product.name not in config.lora_projections:
        return 0
    weights = config.lora_rank * (product.inputs + product.outputs)
    return product.layers * product.tokens * weights


def _made_again(config: ModelConfig) -> set[str]:
    """The products that the backward pass computes again."""
    every = {"query", "key", "value", "out", "router", "gate", "up", "down"}
    names: set[str] = every if config.remat == "full" else set()
    for change in config.remat_tensors:
        tensor, _, what = change.partition("=")
        name = RESULTS.get(tensor, tensor)
        names = names | {name} if what == "recompute" else names - {name}
    return names - {*_unneeded(config)}


def _unneeded(config: ModelConfig) -> tuple[str, ...]:
    """Products that a layer adds last to its residual stream, which passes gradients on without them."""
    if config.norm_position == "post":
        return ()  # the norm after the sum needs it
    return ("out", "down") if config.parallel_residual else ("down",)


def _pairs(row: _Row) -> tuple[float, float]:
    """FLOPs of the attention of one row in all layers, forward: over all pairs, and over those seen."""
    config, T, S = row
    pair = 4 * config.num_heads * config.dim_per_head
    reaches = [_reach(config, kind, T) for kind in layer_kinds(config)]
    crossed = 0 if S is None else config.num_layers * T * S
    full = sum(reach * T for reach in reaches)
    seen = sum(reach * (T - reach / 2) for reach in reaches) if config.causal else full
    return pair * (full + crossed), pair * (seen + crossed)


def _reach(config: ModelConfig, kind: LayerKind, num_tokens: int) -> int:
    """The most keys that a query reads in a layer of this kind."""
    return num_tokens if kind == "global" or config.window is None else min(num_tokens, config.window)
