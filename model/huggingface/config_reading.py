"""From config.json to ModelConfig: checks for every family, before its own reader sees the values."""

import functools
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.rope import unknown_rope_keys
from flaxmill.model.config_json.settings import Settings, shown, unknown_keys
from flaxmill.model.families.description import FamilyDescription
from flaxmill.model.fields import Head

LOGGER = logging.getLogger("flaxmill.weights")


def read_config(
    family: FamilyDescription, values: Mapping[str, Any], head: Head, names: frozenset[str]
) -> ModelConfig:
    """The model that a config.json describes.

    Args:
      names: the names of the file's tensors; empty where they are unknown.

    Raises:
      ValueError: a value that the family cannot have, or more layers, or experts, than the files hold.
    """
    # Families look for names as transformers writes them, whichever spelling this file has.
    spellings = frozenset(spelling for name in names for spelling in family.spellings(name))
    if values.get("vocab_size", 0) is None:
        raise ValueError("config.json has vocab_size=null; set it to the rows of the embedding")
    _check_depths(family.settings, values, names)
    try:
        return family.read_config(values, head, spellings)
    except (TypeError, AttributeError, KeyError, IndexError, ArithmeticError) as error:
        raise ValueError(
            f"config.json of a {family.model_type} has a value of another kind than transformers writes "
            f"({type(error).__name__}: {error}); correct it"
        ) from error


def warn_of_unknown_keys(family: FamilyDescription, values: Mapping[str, Any]) -> None:
    """Warn once of keys that are not read because the family has no such setting."""
    unknown = unknown_keys(family.settings, values)
    if "rope_parameters" in family.settings.read:
        unknown |= dict.fromkeys(unknown_rope_keys(values))
    if unknown:
        _warn_once(family.model_type, tuple(unknown.items()))


def _check_depths(settings: Settings, values: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse more layers, or experts, than the files have, before anything is made for each of them."""
    for key, before in settings.depths.items():
        spellings = [key, *(alias for alias, stands_for in settings.aliases.items() if stands_for == key)]
        given = [(name, values[name]) for name in spellings if name in values]
        name, told = (given or [(key, settings.read[key].default)])[0]
        pattern = re.compile(rf"(?:^|\.){re.escape(before)}(\d+)\.")
        found = {int(match[1]) for tensor in names if (match := pattern.search(tensor))}
        if found and isinstance(told, int | float) and told > max(found) + 1:
            what = before.rstrip(".")  # layers, experts, or what a family calls them
            what = what if what == "experts" else "layers"
            raise ValueError(
                f"config.json: {name}={shown(told)} is more {what} than the files hold, which have "
                f"{max(found) + 1}; set {name} to that, or give all of the files"
            )


@functools.cache
def _warn_once(model_type: str, unknown: tuple[tuple[str, str | None], ...]) -> None:
    named = ", ".join(f"{key} (did you mean {near}?)" if near else key for key, near in unknown)
    LOGGER.warning("config.json: not read, since a %s has no settings of these names: %s", model_type, named)
