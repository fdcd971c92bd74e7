"""The Transformer: configuration, parameters, forward pass."""

from flaxmill.model.apply import abstract_params, apply, count_params, init_params, logical_axes
from flaxmill.model.config import ModelConfig
from flaxmill.model.huggingface import load_huggingface, save_huggingface

__all__ = [
    "ModelConfig",
    "abstract_params",
    "apply",
    "count_params",
    "init_params",
    "load_huggingface",
    "logical_axes",
    "save_huggingface",
]
