"""Finds and removes the prefixes that wrappers of a model put before the names of its tensors."""

import functools
import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

LOGGER = logging.getLogger("flaxmill.weights")

_OF_COMPILING = "_orig_mod."
_OF_DATA_PARALLEL = "module."


def without_wrappers(arrays: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The tensors by their names without the prefixes of torch.compile and DistributedDataParallel.

    The log says so once. Raises ValueError where two names become the same.
    """
    bare = {name: _bare(name) for name in arrays}
    if set(bare.values()) != set(arrays):
        _log_once(source, _OF_COMPILING, "torch.compile")
    while bare and all(name.startswith(_OF_DATA_PARALLEL) for name in bare.values()):
        _log_once(source, _OF_DATA_PARALLEL, "DistributedDataParallel")
        bare = {name: short.removeprefix(_OF_DATA_PARALLEL) for name, short in bare.items()}
    found: dict[str, Any] = {}
    for name, short in bare.items():
        if short in found:
            raise ValueError(
                f"{name} and another tensor are both {short} without the prefixes of torch's wrappers; "
                "remove one of the two from the file"
            )
        found[short] = arrays[name]
    return found


def unknown_prefix(names: Collection[str], expected: Collection[str]) -> str | None:
    """The shortest prefix of all names without which most of them are expected; None: there is no such
    prefix, or the names are expected as they are."""
    first, last = min(names, default=""), max(names, default="")  # all others lie between the two
    common = next((end for end in range(len(first)) if first[end] != last[end : end + 1]), len(first))
    prefixes = ["", *(first[: end + 1] for end in range(common) if first[end] == ".")]
    known = [sum(name.removeprefix(prefix) in expected for name in names) for prefix in prefixes]
    likely = [prefix for prefix, count in zip(prefixes, known, strict=True) if count > len(names) / 2]
    return likely[0] or None if likely else None


def _bare(name: str) -> str:
    """The prefix may precede the name of any part: each part may be compiled separately."""
    return re.sub(rf"(^|\.){re.escape(_OF_COMPILING)}", r"\1", name)


@functools.cache
def _log_once(source: str, prefix: str, wrapper: str) -> None:
    LOGGER.warning(
        "%s: tensors are read without the %s that %s puts before their names", source, prefix, wrapper
    )
