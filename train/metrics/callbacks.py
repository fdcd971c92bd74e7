"""Functions of a user's own that follow a run's evaluations. train/inference/evaluated.py calls them."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

CallbackFunction = Callable[[Any], Mapping[str, Any] | None]
"""Is given an `Evaluated` of train/inference/evaluated.py; returns numbers, of Python, NumPy or JAX."""

_NAME = re.compile(r"[A-Za-z]\w*([/.-]\w+)*")


class Callback(NamedTuple):
    """A function that is called after each evaluation."""

    function: CallbackFunction
    metrics: tuple[str, ...]
    """The numbers that it returns, without the `eval_` before them in a run's rows."""
    file: str
    """The file that defines it."""


CALLBACKS: dict[str, Callback] = {}


class CallbackError(ValueError):
    """A callback raised something, or returned other numbers than it was defined with."""


def define_callback(name: str, function: CallbackFunction, *, metrics: Iterable[str] = (), file: str) -> str:
    """Add a function of a user's own, for experiments with this name among `callbacks`; returns the name.

    Args:
      function: is given an `Evaluated` after each evaluation. It returns the numbers that `metrics` names,
        or nothing if that is empty.
      metrics: names of numbers; a run's rows have `eval_` before them, and so has `best.metric`.
      file: the file that defines the function, its `__file__`. A run keeps the path.

    Raises:
      ValueError: a name cannot be used.
    """
    metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    for given in (name, *metrics):
        if not isinstance(given, str) or not _NAME.fullmatch(given):
            raise ValueError(f"callback {name!r}: {given!r} is no name; use letters, digits and _")
    for metric in metrics:
        if metric.startswith("eval_"):
            raise ValueError(
                f"callback {name!r} has the metric {metric!r}, which would be reported as eval_{metric}; "
                f"name it {metric.removeprefix('eval_')!r}"
            )
        if metrics.count(metric) > 1:
            raise ValueError(f"callback {name!r} has the metric {metric!r} twice; name each once")
    CALLBACKS[name] = Callback(function, metrics, str(Path(file).absolute()))
    return name


def callback_of(name: str, file: str | None = None) -> Callback:
    """The callback of that name.

    Args:
      file: the file that defines it, as a run's config says.

    Raises:
      ValueError: there is none, or its file has not been run.
    """
    if name in CALLBACKS:
        return CALLBACKS[name]
    if file is not None:
        raise ValueError(
            f"callbacks={name} is defined in {file}, which flaxmill runs only if you name it: begin with "
            f"flaxmill train {file}, or go on without it: --callbacks None"
        )
    raise ValueError(
        f"callbacks={name} is not defined; a config file defines it with define_callback "
        f"(docs/callbacks.md){', or use ' + ', '.join(CALLBACKS) if CALLBACKS else ''}"
    )


def find_callbacks_file(names: Iterable[str], file: str | None) -> str | None:
    """The file that defines these callbacks; None: there are none. `file`: as a run's config says.

    Raises:
      ValueError: as `callback_of` does, or they are of several files, of which a command can name but one.
    """
    files = {name: callback_of(name, file).file for name in names}
    if len(set(files.values())) > 1:
        where = ", ".join(f"{name} in {path}" for name, path in files.items())
        raise ValueError(f"callbacks are defined in several files ({where}); define all of a run's in one")
    return next(iter(files.values()), None)


def metrics_of_callbacks(names: Iterable[str]) -> dict[str, str]:
    """{name in a run's rows: callback} for the numbers of these callbacks.

    Raises:
      ValueError: two callbacks have a metric of one name, or one is not defined.
    """
    found: dict[str, str] = {}
    for name in names:
        for metric in callback_of(name).metrics:
            if (row_name := f"eval_{metric}") in found:
                raise ValueError(
                    f"callbacks {found[row_name]} and {name} both have the metric {metric!r}; rename one"
                )
            found[row_name] = name
    return found
