"""The Transformer: configuration, parameters, forward pass."""

from flaxmill.model.adapters import merge_lora
from flaxmill.model.apply import abstract_params, apply, count_params, init_params, logical_axes
from flaxmill.model.config import ModelConfig
from flaxmill.model.generation import Generator, generate
from flaxmill.model.generation_config import GenerationConfig
from flaxmill.model.huggingface import load_huggingface, save_huggingface

__all__ = [
    "GenerationConfig",
    "Generator",
    "ModelConfig",
    "abstract_params",
    "apply",
    "count_params",
    "generate",
    "init_params",
    "load_huggingface",
    "logical_axes",
    "merge_lora",
    "save_huggingface",
]
