"""What the config.json of many families has in common: activations, token ids, kinds of layers.

Readers return keyword arguments of ModelConfig, writers return keys of config.json.
"""

import logging
from collections.abc import Mapping
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


def read_token_ids(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a list, the first id counts, which the log says; one past the vocabulary or negative (old files
    have -1) is None."""
    found = {}
    for name in ("pad", "bos", "eos"):
        value = values.get(f"{name}_token_id")
        if isinstance(value, list) and value:
            if len(value) > 1:
                LOGGER.warning("config.json: of %s_token_id=%s the first alone is kept", name, value)
            value = value[0]
        is_id = isinstance(value, int) and 0 <= value < values["vocab_size"]
        found[f"{name}_id"] = value if is_id else None
    return found


def write_token_ids(config: ModelConfig) -> dict[str, int | None]:
    """Null where unset: left out, a family's default would stand, which may lie past the vocabulary."""
    return {"pad_token_id": config.pad_id, "bos_token_id": config.bos_id, "eos_token_id": config.eos_id}


def layer_fields(kinds: tuple[LayerKind, ...], window: int | None) -> dict[str, Any]:
    """layer_pattern, as short as it gets, and window; `kinds` has one entry for each layer."""
    if "local" not in kinds:
        return {"layer_pattern": (), "window": None}
    for length in range(1, len(kinds) + 1):
        pattern = kinds[:length]
        if all(kind == pattern[index % length] for index, kind in enumerate(kinds)):
            return {"layer_pattern": pattern, "window": window}
    raise AssertionError("a list repeats itself after its full length")
