"""Describes a model family for the import and export of its files."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.settings import Settings
from flaxmill.model.families.stored_tensors import TensorMap
from flaxmill.model.fields import Head


def _nothing_tied(config: ModelConfig) -> Mapping[str, str]:
    return {}


class FamilyDescription(NamedTuple):
    """How one family's config.json and tensors become a ModelConfig and its parameters, and back."""

    model_type: str
    """The model_type in config.json."""
    architectures: Mapping[Head, str]
    """The class that config.json names for each head; a family has only these heads."""
    read_config: Callable[[Mapping[str, Any], Head, frozenset[str]], ModelConfig]
    """Reads config.json, the head and the names of the file's tensors (empty where they are unknown)."""
    write_config: Callable[[ModelConfig], dict[str, Any]]
    """Returns all of config.json but architectures and model_type."""
    settings: Settings
    """Which keys of config.json are read, refused, or mean nothing."""
    tensors: Callable[[ModelConfig], TensorMap]
    """Where files keep each parameter of `config.head`'s model."""
    prefixes: tuple[str, ...] = ()
    """Prefixes of the body's names under some heads; a file may have any of them or none."""
    ignored: tuple[str, ...] = ()
    """Regular expressions for names that are not parameters: masks, position numbers, tables."""
    buffers: tuple[str, ...] = ()
    """Names in `tensors` that torch keeps as buffers, so they have no gradient."""
    tied: Callable[[ModelConfig], Mapping[str, str]] = _nothing_tied
    """Copies that a file may hold, and the tensors that they must equal: {copy: tensor}."""

    unfused: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]] = dict
    """A file's tensors as `tensors` names them, where files may also hold several as one."""

    def spellings(self, name: str) -> tuple[str, ...]:
        """A tensor's name as it is, without the body's prefix, and with each prefix."""
        prefix = next((prefix for prefix in self.prefixes if name.startswith(prefix)), "")
        bare = name.removeprefix(prefix)
        return (name, bare, *(prefix + bare for prefix in self.prefixes))
