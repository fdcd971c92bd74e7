"""How much arithmetic a training step takes, and what share of the hardware's peak it reaches."""

from typing import NamedTuple

from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import LayerKind
from flaxmill.model.layer_plan import layer_kinds

# Dense bfloat16 peaks in FLOP/s by a word of jax.Device.device_kind, from the vendors' data sheets.
PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}
BACKWARD = 2  # gradients of the inputs and of the weights, each as much as the forward pass
FROZEN_BACKWARD = 1  # gradients of the inputs alone, where LoRA trains other weights


class StepFlops(NamedTuple):
    """Model FLOPs of one step, recomputation not counted (Chowdhery et al. 2022, appendix B)."""

    full: float
    """Attention counted over all pairs of places (within the window of a local layer), as most published
    figures do."""
    causal: float
    """Attention of a causal model counted over the half that it may see."""


def step_flops(
    config: ModelConfig, batch_size: int, num_tokens: int, predictions: int | None = None
) -> StepFlops:
    """FLOPs of one update on [batch_size, num_tokens], with a head on `predictions` places of a row.

    What `optimizer.freeze` saves is not subtracted.
    """
    D, F, H = config.embed_dim, config.hidden_dim, config.dim_per_head
    projections = D * H * (2 * config.num_heads + 2 * config.kv_heads)
    mlp = D * F * (3 if config.gated_mlp else 2)
    places = num_tokens if predictions is None else predictions
    head = D * config.padded_vocab_size + (0 if config.head == "lm" else D * D)
    matmuls = 2 * batch_size * (num_tokens * config.num_layers * (projections + mlp) + places * head)
    adapters = 2 * batch_size * num_tokens * config.num_layers * _adapter_weights(config)
    backward = BACKWARD if config.lora_rank is None else FROZEN_BACKWARD
    products = (1 + backward) * matmuls + (1 + BACKWARD) * adapters
    pair = 4 * batch_size * config.num_heads * H
    reaches = [_reach(config, kind, num_tokens) for kind in layer_kinds(config)]
    all_pairs = pair * sum(reach * num_tokens for reach in reaches)
    seen = pair * sum(reach * (num_tokens - reach / 2) for reach in reaches) if config.causal else all_pairs
    return StepFlops(products + (1 + BACKWARD) * all_pairs, products + (1 + BACKWARD) * seen)


def _adapter_weights(config: ModelConfig) -> int:
    """Weights of LoRA's factors in one layer: rank x (inputs + outputs) of each projection that has them."""
    if config.lora_rank is None:
        return 0
    heads, kv_heads = (config.dim_per_head * count for count in (config.num_heads, config.kv_heads))
    others = {"query": heads, "key": kv_heads, "value": kv_heads, "out": heads}
    sizes = [others.get(target, config.hidden_dim) + config.embed_dim for target in config.lora_projections]
    return config.lora_rank * sum(sizes)


def _reach(config: ModelConfig, kind: LayerKind, num_tokens: int) -> int:
    """The most keys that a query reads in a layer of this kind."""
    return num_tokens if kind == "global" or config.window is None else min(num_tokens, config.window)


def peak_flops(kinds: list[str]) -> float | None:
    """Sum of the bfloat16 peaks of devices of these kinds; None where one is unknown, such as a CPU."""
    peaks = [next((peak for name, peak in PEAKS.items() if name in kind), None) for kind in kinds]
    return None if None in peaks else sum(peak for peak in peaks if peak)
