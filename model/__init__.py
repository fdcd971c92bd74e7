"""The Transformer: configuration, parameters, forward pass."""

from flaxmill.model.apply import abstract_params, apply, count_params, init_params, logical_axes
from flaxmill.model.config import ModelConfig

__all__ = ["ModelConfig", "abstract_params", "apply", "count_params", "init_params", "logical_axes"]
