"""LoRA (Hu et al. 2021): which projections have a low-rank product beside their frozen matrix."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from flaxmill.model.config import ModelConfig

LORA_FIELDS = ("lora_rank", "lora_alpha", "lora_targets")
LORA_A, LORA_B = "lora_a", "lora_b"
"""Names of the factors, next to their kernel: [*in_dims, rank] and [rank, *out_dims]."""

_TASK_HEAD = ("pooler", "classifier")


class Lora(NamedTuple):
    """Rank of an adapter, and the factor alpha / rank of its output."""

    rank: int
    scale: float


def lora_of(config: "ModelConfig", projection: str) -> Lora | None:
    """The adapter of the projection of this name; None: it has none."""
    if config.lora_rank is None or projection not in config.lora_projections:
        return None
    return Lora(config.lora_rank, config.lora_alpha / config.lora_rank)


def is_adapter(path: tuple[str, ...]) -> bool:
    """Whether the parameter at this path is an adapter's."""
    return path[-1] in (LORA_A, LORA_B)


def head_beside_adapters(params: Mapping[str, Any]) -> tuple[str, ...]:
    """Groups of params that are trained whole, beside adapters: a task's head, which is newly initialised."""
    return tuple(group for group in _TASK_HEAD if "classifier" in params and group in params)


def without_lora(config: "ModelConfig") -> "ModelConfig":
    """The base model: the same without adapters."""
    return with_lora_of(config, type(config)())


def with_lora_of(config: "ModelConfig", other: "ModelConfig") -> "ModelConfig":
    """The model with the same kind of adapters as another model."""
    return dataclasses.replace(config, **{name: getattr(other, name) for name in LORA_FIELDS})
