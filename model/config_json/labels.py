"""The classes of a head in config.json: how many, their names, and what kind of problem they solve."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.settings import checked, shown, whole
from flaxmill.model.fields import Head, ProblemType

_DEFAULT_NUM_LABELS = 2


def read_labels(values: Mapping[str, Any], head: Head) -> dict[str, Any]:
    """Keyword arguments of ModelConfig.

    Raises ValueError where a head of classes cannot be read: names that are not numbered 0, 1, ..., numbers
    that contradict each other, or a kind of problem that transformers does not know.
    """
    if head not in ("classification", "token_classification"):
        return {"num_labels": _num_labels(values)}
    label_names(values)
    fields: dict[str, Any] = {"num_labels": _num_labels(values)}
    problem = values.get("problem_type")
    if problem not in (None, *get_args(ProblemType)):
        raise ValueError(
            f"config.json: problem_type={shown(problem)} is unknown; use one of "
            f"{', '.join(get_args(ProblemType))}, or null"
        )
    return fields | ({"problem_type": problem} if head == "classification" else {})


def label_names(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes, in the order of their numbers.

    Raises ValueError where the numbers are not 0, 1, ..., or `label2id` and `num_labels` contradict them.
    """
    names = values.get("id2label")
    if not names:
        return tuple(f"LABEL_{number}" for number in range(_num_labels(values)))
    if not isinstance(names, dict):
        raise ValueError(
            f"config.json: id2label={shown(names)} must be an object with a name for each number"
        )
    if names.keys() != {str(number) for number in range(len(names))}:
        raise ValueError(
            f"config.json: id2label has the numbers {shown(list(names))}; it must have each of 0 to "
            f"{len(names) - 1}"
        )
    if unnamed := [number for number, name in names.items() if not isinstance(name, str | int | float)]:
        raise ValueError(f"config.json: id2label has no name for class {unnamed[0]}; add one")
    _check_numbers(values, names)
    return tuple(str(names[str(number)]) for number in range(len(names)))


def write_labels_of(config: ModelConfig) -> dict[str, Any]:
    """Keys for the labels: transformers counts their names; two labels without names are its default."""
    num_labels = _DEFAULT_NUM_LABELS if config.num_labels is None else config.num_labels
    written: dict[str, Any] = {} if config.problem_type is None else {"problem_type": config.problem_type}
    if num_labels == _DEFAULT_NUM_LABELS:
        return written
    return written | write_labels([f"LABEL_{index}" for index in range(num_labels)])


def write_labels(names: Sequence[str]) -> dict[str, Any]:
    """The classes' names by number, and their numbers by name."""
    return {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def _num_labels(values: Mapping[str, Any]) -> int:
    names = values.get("id2label")
    if names:
        return len(names)
    count = values.get("num_labels")
    return _DEFAULT_NUM_LABELS if count is None else count


def _check_numbers(values: Mapping[str, Any], names: Mapping[str, Any]) -> None:
    count = values.get("num_labels")
    if count is not None and checked("num_labels", count, whole(None)) != len(names):
        raise ValueError(
            f"config.json: num_labels={count} but id2label names {len(names)} classes; make them agree"
        )
    numbers = values.get("label2id") or {}
    if not isinstance(numbers, dict):
        raise ValueError(
            f"config.json: label2id={shown(numbers)} must be an object with a number for each name"
        )
    for number, name in names.items():
        # Names that id2label lacks are left over from a default, and nobody asks for them.
        if str(numbers.get(str(name), number)) != number:
            raise ValueError(
                f"config.json: id2label calls class {number} {shown(name)}, which label2id gives the number "
                f"{shown(numbers[str(name)])}; make them agree"
            )
