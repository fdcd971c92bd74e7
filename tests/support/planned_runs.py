"""Experiments to plan: named configs as they are once their data are known, and small models to compile."""

import dataclasses
from typing import Any

from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.named_configs import load_config

_HEADS = {"causal": ("lm", True), "mlm_nsp": ("mlm_nsp", False)}
SMALL = {
    "vocab_size": 2048,
    "num_layers": 6,
    "embed_dim": 256,
    "num_heads": 8,
    "causal": True,
    "head": "lm",
    "max_positions": 256,
}
LLAMA = {
    "norm": "rmsnorm",
    "positions": "rotary",
    "activation": "silu",
    "gated_mlp": True,
    "use_bias": False,
    "tie_embeddings": False,
    "mlp_dim": 704,
}


def named(name: str, **changes: Any) -> Experiment:
    """A named config, resolved; `changes` are of its own fields or, as model__remat, of a part's."""
    config = load_config(name)
    head, causal = _HEADS[config.objective]
    model = dataclasses.replace(
        config.model,
        head=head,  # type: ignore[arg-type]
        causal=causal,
        max_positions=config.model.max_positions or config.data.sequence_length,
    )
    own = {field: value for field, value in changes.items() if "__" not in field}
    parts: dict[str, Any] = {"model": model}
    for field, value in changes.items():
        part, _, inner = field.partition("__")
        if inner:
            parts[part] = dataclasses.replace(parts.get(part, getattr(config, part)), **{inner: value})
    return dataclasses.replace(config, **parts | own)


def small_llama(**changes: Any) -> Experiment:
    """Six layers of 256 on rows of 256 tokens; `changes` are of the model."""
    return small_gpt(**LLAMA | changes)


def small_gpt(accumulate: int = 1, **changes: Any) -> Experiment:
    model = ModelConfig(**SMALL | changes)
    data = DataConfig(sequence_length=256, vocab_size=2048)
    return Experiment(model=model, batch_size=64, accumulate=accumulate, data=data)
