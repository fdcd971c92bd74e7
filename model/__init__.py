"""The Transformer: configuration, parameters, forward pass.

fields         the fields of a ModelConfig
config         ModelConfig, which checks them
config_checks  what it refuses
transformer    embeddings, an encoder if there is one, the stack, and the heads: read this first
stack          a stack of layers, run as its plan says
pipeline       layers as stages through which microbatches go
layer_plan     how a stack is cut for compiling
layer          one layer
rematerialisation  what of a layer is kept for its gradient
heads          heads, poolers and classifiers
pooling        the hidden states of a text, pooled into one vector
row_product    the product of one row with weights of 2 or 1 bytes
params         trees of parameters
functional     the model as pure functions: initialise, count, describe, apply
random_bits    JAX's random bits on CPUs, from a program that compiles quickly
adapters       LoRA adapters, added and merged

layers/       the parts of a layer
generation/   tokens from tokens
config_json/  Hugging Face's config.json, key by key
families/     one file for each family of models
huggingface/  weights in and out
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxmill.model.adapters import merge_lora
    from flaxmill.model.config import ModelConfig
    from flaxmill.model.functional import abstract_params, apply, count_params, init_params, logical_axes
    from flaxmill.model.generation.config import GenerationConfig
    from flaxmill.model.generation.generator import Generator, generate
    from flaxmill.model.huggingface.directory import load_huggingface, save_huggingface

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

_MODULES = {
    "GenerationConfig": "generation.config",
    "Generator": "generation.generator",
    "ModelConfig": "config",
    "abstract_params": "functional",
    "apply": "functional",
    "count_params": "functional",
    "generate": "generation.generator",
    "init_params": "functional",
    "load_huggingface": "huggingface.directory",
    "logical_axes": "functional",
    "merge_lora": "adapters",
    "save_huggingface": "huggingface.directory",
}


def __getattr__(name: str) -> Any:
    # Imported on demand: config files import this package and must not wait for JAX.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
