"""What the config.json of many families has in common: activations, token ids, labels, rotary positions.

Readers return keyword arguments of ModelConfig, writers return keys of config.json.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from flaxmill.model.config import LayerKind, ModelConfig

LOGGER = logging.getLogger("flaxmill.weights")

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def read_activation(values: Mapping[str, Any], key: str) -> Activation:
    """The activation that `values[key]` names; ValueError where the model has none that equals it."""
    name = values[key]
    if name not in _ACTIVATIONS:
        raise ValueError(
            f"config.json: {key}={name!r} is not supported; supported are {', '.join(sorted(_ACTIVATIONS))}"
        )
    return _ACTIVATIONS[name]


def write_activation(config: ModelConfig, tanh: str = "gelu_pytorch_tanh") -> str:
    """`tanh`: the family's own name of GELU's tanh form, of which transformers has several."""
    return tanh if config.activation == "gelu_tanh" else config.activation


def refuse(values: Mapping[str, Any], supported: Mapping[str, Any]) -> None:
    """ValueError for the first key that has another value than the one that the model can compute."""
    for key, value in supported.items():
        if values.get(key, value) != value:
            raise ValueError(
                f"config.json: {key}={values[key]!r} is not supported, only {value!r} is; "
                "convert or choose a checkpoint without it"
            )


def read_num_labels(values: Mapping[str, Any]) -> int:
    return len(values["id2label"]) if values.get("id2label") else values.get("num_labels", 2)


def write_num_labels(config: ModelConfig) -> dict[str, Any]:
    """transformers counts the names of the labels; two unnamed ones are its default."""
    num_labels = 2 if config.num_labels is None else config.num_labels
    if num_labels == 2:
        return {}
    return write_labels([f"LABEL_{index}" for index in range(num_labels)])


def write_labels(names: Sequence[str]) -> dict[str, Any]:
    """Names of the classes, both ways."""
    return {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def read_token_ids(values: Mapping[str, Any]) -> dict[str, Any]:
    """Ids past the vocabulary or negative (old files have -1) are None; there may be several end tokens."""
    found: dict[str, Any] = {}
    for name in ("pad", "bos", "eos"):
        value = values.get(f"{name}_token_id")
        given = value if isinstance(value, list) else [value]
        ids = [id_ for id_ in given if _is_id(id_, values["vocab_size"])]
        if len(ids) > 1 and name != "eos":
            raise ValueError(
                f"config.json: {name}_token_id={value} are several ids; give the one that counts"
            )
        found[f"{name}_id"] = ids[0] if ids else None
        if len(ids) > 1:
            found["eos_ids"] = tuple(ids)
    return found


def _is_id(value: Any, vocab_size: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocab_size


def write_token_ids(config: ModelConfig) -> dict[str, int | list[int] | None]:
    """Null where unset: left out, a family's default would stand, which may lie past the vocabulary."""
    ends = list(config.eos_ids) or config.eos_id
    return {"pad_token_id": config.pad_id, "bos_token_id": config.bos_id, "eos_token_id": ends}


def rope_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_parameters` of transformers 5 or `rope_scaling` of transformers 4, which has precedence."""
    return values.get("rope_scaling") or values.get("rope_parameters") or {}


def read_rope(values: Mapping[str, Any], theta_key: str = "rope_theta") -> dict[str, Any]:
    """transformers 4 keeps theta beside the others, as `theta_key`.

    Raises ValueError for kinds of scaling other than linear and llama3.
    """
    rope = rope_settings(values)
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = rope.get("rope_theta", values.get(theta_key, 10_000.0))
    fields: dict[str, Any] = {"rope_theta": float(theta)}
    if kind == "default":
        return fields
    if kind not in ("linear", "llama3"):
        raise ValueError(
            f"config.json: rotary scaling {kind!r} is not supported, only 'default', 'linear' and 'llama3'; "
            "remove rope_scaling (rope_parameters) to run without it, within the original context"
        )
    fields |= {"rope_scaling": kind, "rope_factor": float(_required(rope, "factor", kind))}
    if kind == "llama3":
        original = rope.get("original_max_position_embeddings", values["max_position_embeddings"])
        fields |= {
            "rope_low_frequency_factor": float(_required(rope, "low_freq_factor", kind)),
            "rope_high_frequency_factor": float(_required(rope, "high_freq_factor", kind)),
            "rope_original_positions": values.get("original_max_position_embeddings", original),
        }
    return fields


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """The value of `rope_parameters`."""
    rope: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_type": "default"}
    if config.rope_scaling == "none":
        return rope
    rope |= {"rope_type": config.rope_scaling, "factor": config.rope_factor}
    if config.rope_scaling == "llama3":
        rope |= {
            "low_freq_factor": config.rope_low_frequency_factor,
            "high_freq_factor": config.rope_high_frequency_factor,
            "original_max_position_embeddings": config.rope_original_positions,
        }
    return rope


def layer_fields(kinds: tuple[LayerKind, ...], window: int | None) -> dict[str, Any]:
    """layer_pattern, as short as it gets, and window; `kinds` has one entry for each layer."""
    if "local" not in kinds:
        return {"layer_pattern": (), "window": None}
    for length in range(1, len(kinds) + 1):
        pattern = kinds[:length]
        if all(kind == pattern[index % length] for index, kind in enumerate(kinds)):
            return {"layer_pattern": pattern, "window": window}
    raise AssertionError("a list repeats itself after its full length")


def _required(rope: Mapping[str, Any], key: str, kind: str) -> Any:
    if key not in rope:
        raise ValueError(f"config.json: rotary scaling {kind!r} lacks {key!r}; add it")
    return rope[key]
