"""What the config.json of many families has in common: activations, token ids, kinds of layers.

Readers return keyword arguments of ModelConfig, writers return keys of config.json.
"""

import logging
from collections.abc import Mapping
from typing import Any, Literal

from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import LayerKind

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
    """The activation's name; `tanh`: the family's name for GELU's tanh form (transformers has several)."""
    return tanh if config.activation == "gelu_tanh" else config.activation


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
    """Null where unset: without the key a family's default would count, which may lie past the vocabulary."""
    ends = list(config.eos_ids) or config.eos_id
    return {"pad_token_id": config.pad_id, "bos_token_id": config.bos_id, "eos_token_id": ends}


def layer_fields(kinds: tuple[LayerKind, ...], window: int | None) -> dict[str, Any]:
    """The shortest layer_pattern, and the window; `kinds` has one entry for each layer."""
    if "local" not in kinds:
        return {"layer_pattern": (), "window": None}
    for length in range(1, len(kinds) + 1):
        pattern = kinds[:length]
        if all(kind == pattern[index % length] for index, kind in enumerate(kinds)):
            return {"layer_pattern": pattern, "window": window}
    raise AssertionError("a list repeats itself after its full length")
