"""Rotary positions in config.json: `rope_parameters` of transformers 5, and the names of transformers 4."""

import math
from collections.abc import Mapping
from typing import Any

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.settings import Settings, checked, finite, other, shown, whole

ROPE_SETTINGS = {
    "rope_parameters": other(),
    "rope_scaling": other(),
    "original_max_position_embeddings": whole(None),
}
"""Keys that every family with rotary positions has, apart from the key of theta."""
ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    ),
    "longrope": (
        *("factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"),
    ),
}
"""Keys of each kind of scaling, apart from rope_theta, partial_rotary_factor and the kind's own name."""


def rope_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_parameters` of transformers 5 or `rope_scaling` of transformers 4, which has precedence.

    Raises ValueError where each kind of layer has its own object: here one object serves all layers.
    """
    key = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    rope = object_of(key, values.get(key))
    if nested := [name for name, value in rope.items() if isinstance(value, dict)]:
        raise ValueError(
            f"config.json: {key}.{nested[0]} is not supported: the layers of this family share one set of "
            "rotary values; give those"
        )
    return rope


def read_rope(values: Mapping[str, Any], theta_key: str = "rope_theta") -> dict[str, Any]:
    """Keyword arguments of ModelConfig; transformers 4 keeps theta outside `rope_scaling`, as `theta_key`.

    Raises ValueError for a kind of scaling that transformers 5 does not have, and for missing values.
    """
    rope = rope_settings(values)
    theta = rope.get("rope_theta", values.get(theta_key))
    original = values.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    theta = 10_000.0 if theta is None and "rope_theta" not in rope else theta
    fields = {"rope_theta": finite("rope_theta", theta)}
    return fields | read_scaling(rope, values["max_position_embeddings"], original)


def read_scaling(rope: Mapping[str, Any], max_positions: int, original: Any) -> dict[str, Any]:
    """Keyword arguments of ModelConfig for stretching the turns, from one object of rotary values.

    Args:
      max_positions: max_position_embeddings.
      original: the context length before the stretching; None: `max_positions`.
    """
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind not in ROPE_KEYS:
        raise ValueError(
            f"config.json: rotary scaling {shown(kind)} is not supported, only "
            f"{', '.join(map(repr, ROPE_KEYS))}; remove rope_scaling (rope_parameters) to run without it, "
            "within the original context"
        )
    if kind == "default":
        return {}
    # NTK's formula stretches beyond max_position_embeddings, whatever the other keys say.
    original = max_positions if kind == "dynamic" or original is None else original
    fields: dict[str, Any] = {"rope_scaling": kind}
    if kind != "linear":
        fields["rope_original_positions"] = _length(original)
    fields["rope_factor"] = _factor(rope, kind, max_positions, original)
    if kind == "llama3":
        for name, key in (("low", "low_freq_factor"), ("high", "high_freq_factor")):
            fields[f"rope_{name}_frequency_factor"] = finite(key, _required(rope, key, kind))
    elif kind == "yarn":
        fields |= _read_yarn(rope, fields["rope_factor"])
    elif kind == "longrope":
        fields |= {
            "rope_short_factors": _factors(rope, "short_factor"),
            "rope_long_factors": _factors(rope, "long_factor"),
            "rope_attention_factor": _optional(rope, "attention_factor"),
        }
    return fields


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """The value of `rope_parameters`."""
    return {"rope_theta": config.rope_theta, "rope_type": "default"} | write_scaling(config)


def write_scaling(config: ModelConfig) -> dict[str, Any]:
    """The part of `rope_parameters` that stretches the turns; {} without scaling."""
    if config.rope_scaling == "none":
        return {}
    written: dict[str, Any] = {
        "factor": config.rope_factor,
        "original_max_position_embeddings": config.rope_original_positions,
        "low_freq_factor": config.rope_low_frequency_factor,
        "high_freq_factor": config.rope_high_frequency_factor,
        "attention_factor": config.rope_attention_factor,
        "beta_fast": config.rope_beta_fast,
        "beta_slow": config.rope_beta_slow,
        "truncate": config.rope_truncate,
        "short_factor": list(config.rope_short_factors),
        "long_factor": list(config.rope_long_factors),
    }
    keys = ROPE_KEYS[config.rope_scaling]
    own = {key: value for key, value in written.items() if key in keys and value is not None}
    return {"rope_type": config.rope_scaling, **own}


def write_max_positions(config: ModelConfig, settings: Settings) -> int:
    """The value of `max_position_embeddings`; for NTK's formula, the length from which it stretches."""
    if config.rope_scaling == "dynamic":
        return config.rope_original_positions
    return config.max_positions or settings.read["max_position_embeddings"].default


def unknown_rope_keys(values: Mapping[str, Any]) -> list[str]:
    """Keys within the rotary values that their kind of scaling does not have."""
    key = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    rope = object_of(key, values.get(key))
    nested = {f"{key}.{name}": value for name, value in rope.items() if isinstance(value, dict)}
    return [
        f"{path}.{name}"
        for path, found in (nested or {key: rope}).items()
        for name in found
        if name not in _known(found)
    ]


def object_of(key: str, value: Any) -> dict[str, Any]:
    """The value, or {} for null. Raises ValueError if it is not an object."""
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"config.json: {key}={shown(value)} must be an object")
    return value or {}


def _known(rope: Mapping[str, Any]) -> tuple[str, ...]:
    kind = rope.get("rope_type", rope.get("type", "default"))
    own = ROPE_KEYS.get(kind, ()) if isinstance(kind, str) else ()
    return (*own, "rope_theta", "rope_type", "type", "partial_rotary_factor")


def _read_yarn(rope: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Peng et al. 2023. Two numbers may give the logits' factor (DeepSeek); a 0 counts as missing."""
    attention_factor = _optional(rope, "attention_factor")
    scales = [_optional(rope, key) for key in ("mscale", "mscale_all_dim")]
    if attention_factor is None and all(scales):
        over, under = (1.0 if factor <= 1 else 0.1 * (scale or 0) * math.log(factor) + 1 for scale in scales)
        attention_factor = over / under
    truncate = rope.get("truncate", True)
    if not isinstance(truncate, bool):
        raise ValueError(f"config.json: truncate={shown(truncate)} must be true or false")
    return {
        "rope_attention_factor": attention_factor,
        "rope_beta_fast": _optional(rope, "beta_fast") or 32.0,
        "rope_beta_slow": _optional(rope, "beta_slow") or 1.0,
        "rope_truncate": truncate,
    }


def _factor(rope: Mapping[str, Any], kind: str, max_positions: int, original: Any) -> float:
    """The stretching factor; without one, YaRN and LongRoPE take the ratio of the two lengths."""
    if kind in ("yarn", "longrope") and rope.get("factor") is None:
        return max_positions / _length(original)
    return finite("factor", _required(rope, "factor", kind))


def _factors(rope: Mapping[str, Any], key: str) -> tuple[float, ...]:
    given = _required(rope, key, "longrope")
    if not isinstance(given, list):
        raise ValueError(f"config.json: {key}={shown(given)} must be a list of numbers")
    return tuple(finite(key, value) for value in given)


def _optional(rope: Mapping[str, Any], key: str) -> float | None:
    return None if rope.get(key) is None else finite(key, rope[key])


def _required(rope: Mapping[str, Any], key: str, kind: str) -> Any:
    if key not in rope:
        raise ValueError(f"config.json: rotary scaling {kind!r} lacks {key!r}; add it")
    return rope[key]


def _length(original: Any) -> int:
    return checked("original_max_position_embeddings", original, whole(1))
