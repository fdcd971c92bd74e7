"""How fast rotary positions turn, and how they are scaled for longer contexts than in pretraining."""

# B batch, T tokens, R pairs of dimensions that turn

import math

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import LayerKind


def stretches(config: ModelConfig, kind: LayerKind) -> bool:
    """Whether the turns of this kind of layer are scaled."""
    return config.rope_scaling != "none" and (kind == "global" or config.rope_scaled_layers == "all")


def rotary_frequencies(config: ModelConfig, kind: LayerKind) -> np.ndarray:
    """float64 [R]: theta^(-i/R), stretched as config.rope_scaling says. dynamic and longrope depend on the
    length: for them, the frequencies in rows of the original length.

    llama3 (Dubey et al. 2024; Llama's reference code) divides by the factor only pairs that turn slowly
    within the original context. Between two numbers of turns the effect falls linearly from all to nothing.
    yarn (Peng et al. 2023, 3.2) does the same, but linearly in the index of the pair.
    """
    theta = config.local_rope_theta if kind == "local" and config.local_rope_theta else config.rope_theta
    num_pairs = config.rotary_dim // 2
    frequencies = theta ** -(np.arange(num_pairs) / num_pairs)
    if not stretches(config, kind):
        return frequencies
    match config.rope_scaling:
        case "linear":
            return frequencies / config.rope_factor
        case "llama3":
            low, high = config.rope_low_frequency_factor, config.rope_high_frequency_factor
            turns = config.rope_original_positions * frequencies / (2 * math.pi)
            kept = np.clip((turns - low) / (high - low), 0, 1)
        case "yarn":
            kept = 1 - _yarn_passage(config, theta)
        case "longrope":
            return frequencies / np.asarray(config.rope_short_factors)
        case _:
            return frequencies
    return frequencies * (kept + (1 - kept) / config.rope_factor)


def frequencies_by_length(config: ModelConfig, frequencies_R: np.ndarray, lengths_BT: jax.Array) -> jax.Array:
    """[B,T,R]: what the frequencies of rows of the original length become in rows of these lengths.

    dynamic: theta grows with the length beyond the original one (NTK-aware scaling; transformers'
    `_compute_dynamic_ntk_parameters` has the formula). longrope has two sets of factors (Ding et al. 2024).
    """
    dtype, original = jax.dtypes.canonicalize_dtype(np.float64), config.rope_original_positions
    if config.rope_scaling == "longrope":
        ratio_R = np.asarray(config.rope_short_factors) / np.asarray(config.rope_long_factors)
        is_long_BT1 = (lengths_BT > original)[..., None]
        return jnp.where(
            is_long_BT1, jnp.asarray(frequencies_R * ratio_R, dtype), jnp.asarray(frequencies_R, dtype)
        )
    # theta * s^(2R/(2R-2)), to the power of -i/R, as a product: float32 then rounds only the small part.
    num_pairs = frequencies_R.size
    powers_R = jnp.asarray(-np.arange(num_pairs) / (num_pairs - 1), dtype)
    beyond_BT = jnp.maximum(lengths_BT - original, 0).astype(dtype) / original
    growth_BT1 = jnp.log1p(config.rope_factor * beyond_BT)[..., None]
    return jnp.asarray(frequencies_R, dtype) * jnp.exp(powers_R * growth_BT1)


def rotary_factor(config: ModelConfig, kind: LayerKind) -> float:
    """What the turned queries and keys are multiplied by, so that attention stays as sharp as it was."""
    if not stretches(config, kind) or config.rope_scaling not in ("yarn", "longrope"):
        return 1.0
    if config.rope_attention_factor is not None:
        return config.rope_attention_factor
    if config.rope_factor <= 1:
        return 1.0
    if config.rope_scaling == "yarn":
        return 0.1 * math.log(config.rope_factor) + 1.0
    return math.sqrt(1 + math.log(config.rope_factor) / math.log(config.rope_original_positions))


def _yarn_passage(config: ModelConfig, theta: float) -> np.ndarray:
    """[R]: 0 where a pair turns as before, 1 where it is stretched in full."""
    dim, original = config.rotary_dim, config.rope_original_positions

    def place(turns: float) -> float:
        """The index of the pair that turns so often within the original context."""
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = place(config.rope_beta_fast), place(config.rope_beta_slow)
    if config.rope_truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low if high != low else 0.001
    return np.clip((np.arange(dim // 2) - low) / width, 0, 1)
