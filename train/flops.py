"""How much arithmetic a training step is, and what share of the hardware's peak it reaches."""

from typing import NamedTuple

from flaxmill.model.config import ModelConfig

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


class StepFlops(NamedTuple):
    """Model FLOPs of one step, recomputation not counted (Chowdhery et al. 2022, appendix B)."""

    full: float
    """Attention counted over all pairs of places, as most published figures do."""
    causal: float
    """Attention of a causal model counted over the half that it may see."""


def step_flops(
    config: ModelConfig, batch_size: int, num_tokens: int, predictions: int | None = None
) -> StepFlops:
    """FLOPs of one update on [batch_size, num_tokens], with a head on `predictions` places of a row."""
    D, F, H = config.embed_dim, config.hidden_dim, config.dim_per_head
    projections = D * H * (2 * config.num_heads + 2 * config.kv_heads)
    mlp = D * F * (3 if config.gated_mlp else 2)
    places = num_tokens if predictions is None else predictions
    head = D * config.padded_vocab_size + (0 if config.head == "lm" else D * D)
    matmuls = 2 * batch_size * (num_tokens * config.num_layers * (projections + mlp) + places * head)
    attention = 4 * batch_size * num_tokens**2 * config.num_heads * H * config.num_layers
    halved = attention / 2 if config.causal else attention
    return StepFlops((1 + BACKWARD) * (matmuls + attention), (1 + BACKWARD) * (matmuls + halved))


def peak_flops(kinds: list[str]) -> float | None:
    """Sum of the bfloat16 peaks of devices of these kinds; None where one is unknown, such as a CPU."""
    peaks = [next((peak for name, peak in PEAKS.items() if name in kind), None) for kind in kinds]
    return None if None in peaks else sum(peak for peak in peaks if peak)
