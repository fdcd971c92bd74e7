"""Compares a file's tensors with those a model needs, strictly, and reports every difference at once."""

import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from flaxmill.model.config import ModelConfig
from flaxmill.model.families.description import FamilyDescription
from flaxmill.model.huggingface.files import Arrays
from flaxmill.model.huggingface.prefixes import unknown_prefix

LOGGER = logging.getLogger("flaxmill.weights")
_MAX_LISTED = 8

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


class _Differences(NamedTuple):
    """Shapes by name: (expected), (in the file), (expected, in the file)."""

    missing: dict[str, Shape]
    unexpected: dict[str, Shape]
    misshapen: dict[str, tuple[Shape, Shape]]


def match_tensors(
    description: FamilyDescription,
    config: ModelConfig,
    arrays: Arrays,
    *,
    expected: Shapes,
    of_head: Collection[str],
    of_other_heads: Collection[str],
    head_may_lack: bool,
) -> Arrays:
    """The file's tensors by the names that the model expects.

    Names may have the family's prefix or not, and gamma and beta for weight and bias. Buffers, tensors of
    other heads and equal copies of tied tensors are dropped; the log names the tensors of other heads.

    Args:
      expected: name and shape of each of the model's tensors.
      of_head: names of the head's tensors; they may be missing if `head_may_lack`.
      of_other_heads: names in files of this family with other heads.

    Raises:
      ValueError: tensors are missing, unexpected or misshapen (the message lists them, and the likely cause);
        or a copy differs from the tensor that it is tied to; or weights are quantised.
    """
    tied = description.tied(config)
    found = _with_known_names(arrays, description, expected, {*of_other_heads, *tied})
    _settle_ties(found, tied, expected)
    _drop_other_heads(found, [name for name in of_other_heads if name not in expected])
    optional = of_head if head_may_lack else ()
    differences = _Differences(
        {name: shape for name, shape in expected.items() if name not in found and name not in optional},
        {name: array.shape for name, array in found.items() if name not in expected},
        {
            name: (shape, found[name].shape)
            for name, shape in expected.items()
            if name in found and found[name].shape != shape
        },
    )
    if any(differences):
        _refuse_wrapped(description, arrays, expected)
        cause = _likely_cause(config, differences, len(expected), of_head)
        raise ValueError(
            f"the weights do not fit model_type={description.model_type}, head={config.head}: "
            f"{_listing(differences)}; {cause}"
        )
    _check_dtypes(found)
    return found


def warn_of_not_finite(directory: str | os.PathLike, counts: Mapping[str, int]) -> None:
    """Warn of tensors that hold NaN or infinity; `counts`: the number of such values by the tensor's name."""
    if counts:
        named = _listed([f"{name} ({count})" for name, count in sorted(counts.items())])
        LOGGER.warning(
            "%s: NaN or infinity is in %d of its tensors, which makes all that they touch useless: %s",
            directory,
            len(counts),
            named,
        )


def _refuse_wrapped(description: FamilyDescription, arrays: Arrays, expected: Shapes) -> None:
    """Refuse a prefix that all names have and the model's do not: it says more than a list of all names."""
    known = {spelling for name in expected for spelling in description.spellings(name)}
    if prefix := unknown_prefix(arrays.keys(), known):
        raise ValueError(
            f"the names of all {len(arrays)} tensors begin with {prefix!r}, which transformers' do not: "
            "remove it in the file, for instance by saving the model inside the wrapper"
        )


def _with_known_names(
    arrays: Arrays, description: FamilyDescription, expected: Collection[str], others: Collection[str]
) -> Arrays:
    found: Arrays = {}
    for stored, array in arrays.items():
        # gamma and beta: TensorFlow's names in a LayerNorm, in files of BERT's first years.
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", stored))
        spellings = description.spellings(name)
        known = [spelling for names in (expected, others) for spelling in spellings if spelling in names]
        name = known[0] if known else name
        if not known and any(re.search(pattern, name) for pattern in description.ignored):
            continue
        if name in found:
            raise ValueError(
                f"{stored} and another tensor are both {name}; remove one of the two from the file"
            )
        found[name] = array
    return found


def _settle_ties(found: Arrays, tied: Mapping[str, str], expected: Shapes) -> None:
    for copy, original in tied.items():
        if copy not in found or copy in expected:
            continue
        array = found.pop(copy)
        if original not in found:
            found[original] = array  # a file may keep either name
        elif not np.array_equal(array, found[original]):
            raise ValueError(
                f"{copy} differs from {original}, which it is tied to; give a file where they are equal, or, "
                "if both are meant, set tie_word_embeddings to false in config.json"
            )


def _drop_other_heads(found: Arrays, others: Iterable[str]) -> None:
    dropped = [name for name in others if found.pop(name, None) is not None]
    if dropped:
        LOGGER.warning("tensors of another head are not used: %s", _listed(sorted(dropped)))


def _check_dtypes(found: Arrays) -> None:
    for name, array in found.items():
        if array.dtype.name not in ("float32", "float64", "float16", "bfloat16"):
            raise ValueError(
                f"{name} is stored as {array.dtype.name}; quantised weights are not supported, "
                "give the float32, float16 or bfloat16 checkpoint"
            )


def _listing(differences: _Differences) -> str:
    missing, unexpected = (
        [f"{name} {list(shape)}" for name, shape in shapes.items()] for shapes in differences[:2]
    )
    misshapen = [
        f"{name} {list(shape)} instead of {list(expected)}"
        for name, (expected, shape) in differences.misshapen.items()
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    return "; ".join(f"{len(items)} {kind}: {_listed(items)}" for kind, items in kinds.items() if items)


def _likely_cause(
    config: ModelConfig, differences: _Differences, num_expected: int, of_head: Collection[str]
) -> str:
    missing, unexpected, misshapen = differences
    stored_rows = {shape[0] for expected, shape in misshapen.values() if expected[0] == config.vocab_size}
    if len(missing) > num_expected / 2:
        return "most of the model is missing: check that config.json belongs to this file"
    if missing and set(missing) <= set(of_head):
        untied = config.head == "lm" and not config.tie_embeddings
        tie = ", or set tie_word_embeddings to true if the embedding serves as head" if untied else ""
        return f"the file has no such head: give head={config.head!r} to initialise it{tie}"
    if misshapen and set(misshapen) <= set(of_head) and config.num_classes is not None:
        return "the file's head has other classes: set num_labels to theirs"
    if len(stored_rows) == 1:
        return f"the file's vocabulary has another size: set vocab_size in config.json to {stored_rows.pop()}"
    if misshapen:
        return "a size in config.json differs from the file's"
    if missing and unexpected:
        return "names differ: the file may come from another library or a newer family"
    if missing:
        return "the file is incomplete, or config.json has more layers than it"
    return "the file has parts or layers that config.json does not mention"


def _listed(items: list[str]) -> str:
    more = len(items) - _MAX_LISTED
    return ", ".join(items[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
