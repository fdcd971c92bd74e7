"""What tells the configs of runs apart, or a single one from the config that it is named for."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from flaxmill.train.experiment import DERIVED_FIELDS, Experiment, flatten
from flaxmill.train.named_configs import config_modules, load_config
from flaxmill.train.run.directory import differences

# Where a run is and what it is called: said elsewhere.
_PLACES = ("run_dir",)


class Compared(NamedTuple):
    """A table: a title, a heading for each column, and {field: its value in each column}."""

    title: str
    columns: list[str]
    values: dict[str, list[str]]


def compare_configs(names: Sequence[str], experiments: Sequence[Experiment]) -> Compared:
    """The fields in which the runs differ, or a single run differs from the config of its name or, where
    there is none, from the defaults."""
    if len(experiments) == 1:
        return _compare_with_origin(names[0], experiments[0])
    flat = [flatten(experiment) for experiment in experiments]
    values = {
        field: [show_value(one[field]) for one in flat]
        for field in flat[0]
        if field not in _PLACES and any(one[field] != flat[0][field] for one in flat)
    }
    return Compared("What differs between the runs' configs", list(names), values)


def _compare_with_origin(name: str, experiment: Experiment) -> Compared:
    is_named = experiment.name in config_modules()
    origin = load_config(experiment.name) if is_named else Experiment()
    called = f"config {experiment.name}" if is_named else "the defaults"
    values = {
        field: [show_value(old), show_value(new)]
        for field, old, new in differences(origin, experiment)
        if field not in _PLACES and not (field in DERIVED_FIELDS and old in (None, ()))
    }
    return Compared(f"What differs from {called}", [called, name], values)


def whole_config(experiment: Experiment) -> dict[str, str]:
    """{dotted field: its value} of all fields."""
    return {field: show_value(value) for field, value in flatten(experiment).items()}


def show_value(value: Any) -> str:
    """A value as JSON writes it, texts without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
