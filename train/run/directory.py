"""A run's directory: made or continued, proven writable, never mixed up with another experiment's."""

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from flaxmill.data.files.local_paths import local_path
from flaxmill.data.whole_files import write_whole, write_whole_text
from flaxmill.train.checkpoint.directory import find_steps
from flaxmill.train.experiment import DERIVED_FIELDS, Experiment, flatten, from_dict, to_dict

if TYPE_CHECKING:
    from flaxmill.data.tokenization import Tokenizer

CONFIG_FILE, TOKENIZER_FILE = "config.json", "tokenizer.json"
TOKENIZER_SETTINGS_FILE = "tokenizer_config.json"
CHECKPOINTS, METRICS_FILE = "checkpoints", "metrics.jsonl"
RUNS = Path("runs")
IMPORTED_STEP = 0
"""The step of a checkpoint with parameters alone, from elsewhere; a run's own first is of step 1 or later."""

# What may change when a run continues: where it runs and what it reports, not what it computes.
FREE_FIELDS = frozenset(
    {
        *("name", "run_dir", "log_every", "log_digests", "eval_every", "eval_batches", "trackers", "prompt"),
        *("max_skipped_steps", "spike.max_rollbacks"),  # where it gives up
        *("callbacks", "callbacks_file"),
        "epochs",  # the steps that it comes to say what it computes
        *("optimizer.offload", "pipeline_microbatches", "pipeline_rounds"),
        "objective_file",  # its digest says what it computes
        *("data.framing", "data.markup"),  # if they change rows, they change the dataset's fingerprint
    }
)
FREE_SECTIONS = ("mesh.", "checkpoint.", "best.")
# What may change in an imported model before its first step: how it is computed and regularised.
FREE_OF_IMPORT = frozenset(
    f"model.{name}"
    for name in (
        *("dtype", "attention", "remat", "remat_tensors", "scan_layers"),
        *("dropout", "attention_dropout"),
    )
)

Difference = tuple[str, Any, Any]


def newest_checkpoint(experiment: Experiment) -> int | None:
    """The step of the newest checkpoint of the experiment's run; None: there is none to continue from."""
    if experiment.run_dir is None:
        return None
    return max(find_steps(local_path(experiment.run_dir, "run_dir") / CHECKPOINTS), default=None)


def has_checkpoint(experiment: Experiment) -> bool:
    """Whether the experiment's run has a checkpoint to continue from."""
    return newest_checkpoint(experiment) is not None


class Allowed(NamedTuple):
    """What may differ from the run that continues, because the user said so."""

    extend: bool = False
    """More `steps`."""
    other_data: bool = False
    """Another text or tokenizer."""
    other_objective: bool = False
    """A changed file that defines the objective."""


NOTHING = Allowed()


def check_run_directory(
    experiment: Experiment, allowed: Allowed = NOTHING, runs: Path = RUNS, *, knows_steps: bool = True
) -> None:
    """Check, changing nothing, that the run can be written and continues no other experiment.

    It may be called before the experiment is resolved, to refuse early, and after, to be sure: fields still
    to be derived count as equal, and `steps` too unless it `knows_steps`.

    Raises:
      ValueError: the place cannot be written; or it holds the progress of another config, or imported
        weights of another model: the message says what differs, old -> new.
    """
    directory = check_writable(experiment, runs)
    if experiment.run_dir and _has_progress(directory):
        _check_continuation(directory, experiment, allowed, knows_steps)


def check_writable(experiment: Experiment, runs: Path = RUNS) -> Path:
    """The experiment's run_dir, or the place of fresh ones, which need not be there yet.

    Raises:
      ValueError: it cannot be written, as far as that can be told without doing so.
    """
    directory = _named(experiment) or runs
    parents = (directory.absolute(), *directory.absolute().parents)
    try:
        existing = next(path for path in parents if path.exists())
    except OSError as error:  # a name that is too long, or a folder that this user may not look into
        raise unwritable(directory, system_reason(error)) from None
    if not existing.is_dir():
        raise unwritable(directory, f"{existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise unwritable(directory, f"{existing} is read-only")
    return directory


def open_run_directory(experiment: Experiment, runs: Path = RUNS) -> Path:
    """The experiment's run_dir, made if absent, or a fresh one below `runs`; proven writable.

    Raises:
      ValueError: the place cannot be made or written.
    """
    directory = _named(experiment)
    try:
        if directory is None:
            directory = _make_fresh(runs, experiment.name)
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise unwritable(directory or runs, system_reason(error)) from None
    return directory


def _check_continuation(directory: Path, experiment: Experiment, allowed: Allowed, knows_steps: bool) -> None:
    differing = [item for item in differences(read_config(directory), experiment) if not _is_free(item[0])]
    if not knows_steps:
        differing = [item for item in differing if item[0] != "steps"]
    if _is_untrained_import(directory):
        _check_import(directory, differing)
        return
    if allowed.extend:
        differing = [item for item in differing if not (item[0] == "steps" and item[2] > item[1])]
    if allowed.other_objective:
        differing = [item for item in differing if item[0] != "objective_sha256"]
    if not differing:
        return
    if [name for name, _, _ in differing] == ["objective_sha256"]:
        raise ValueError(
            f"{directory} was trained with another version of {experiment.objective_file}, which defines its "
            "objective; restore it, give another --run-dir, or continue with the file as it is with "
            "--allow-other-objective"
        )
    if [name for name, _, _ in differing] == ["steps"]:
        _refuse_steps(directory, *differing[0][1:], allowed.extend)
    raise ValueError(
        f"{directory} was trained with another config: {describe_differences(differing)}; "
        "give the old values, or another --run-dir"
    )


def _check_import(directory: Path, differing: list[Difference]) -> None:
    refused = [(n, a, b) for n, a, b in differing if n.startswith("model.") and n not in FREE_OF_IMPORT]
    if refused:
        raise ValueError(
            f"{directory} holds imported weights of another model: {describe_differences(refused)}; "
            "leave its model.* as imported, or give another --run-dir"
        )


def write_config(directory: Path, resolved: Experiment, tokenizer: "Tokenizer | None") -> None:
    """Write config.json and, if there is a tokenizer, its file and settings, each whole or not at all.

    The run is locked, so files that another process left half written are nobody's any more.
    """
    for name in (CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_SETTINGS_FILE):
        for partial in directory.glob(f".*-{name}"):
            partial.unlink(missing_ok=True)
    text = json.dumps(to_dict(resolved), indent=2, allow_nan=False) + "\n"
    write_whole_text(directory / CONFIG_FILE, text)
    if tokenizer is not None:
        write_whole(directory / TOKENIZER_FILE, tokenizer.save)
        write_whole(directory / TOKENIZER_SETTINGS_FILE, tokenizer.save_settings)


def read_config(directory: Path) -> Experiment:
    """The resolved experiment of a run.

    Raises:
      ValueError: no such run, or a config.json that is damaged or of another version.
    """
    path = directory / CONFIG_FILE
    if not directory.is_dir():
        raise ValueError(f"{directory} is not a run directory; `ls {RUNS}` shows the runs made here")
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            raise OSError("it is not a file")
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({system_reason(error)}); give a directory that `flaxmill train` made"
        ) from None
    except (ValueError, RecursionError) as error:  # JSON's and UTF-8's errors are ValueErrors too
        raise ValueError(
            f"{path} is not a config of this version: {error}; restore it, or train again"
        ) from None


def read_trained_config(directory: Path) -> Experiment:
    """Like `read_config`, where the run's model is to be used.

    It also raises ValueError where the config leaves open what training derives.
    """
    experiment = read_config(directory)
    for name in ("vocab_size", "head", "causal"):
        if getattr(experiment.model, name) is None:
            raise ValueError(
                f"{directory / CONFIG_FILE} does not set model.{name}, as training does; restore it, or "
                "train again"
            )
    return experiment


def differences(old: Experiment, new: Experiment) -> list[Difference]:
    """(dotted name, old, new) of each field that differs; a field that is still to be derived does not."""
    before, after = flatten(old), flatten(new)
    return [
        (name, before[name], value)
        for name, value in after.items()
        if before[name] != value and not (name in DERIVED_FIELDS and value in (None, ()))
    ]


def describe_differences(differing: list[Difference]) -> str:
    """`model.num_layers 2 -> 3, seed 0 -> 1`."""
    return ", ".join(f"{name} {_text(old)} -> {_text(new)}" for name, old, new in differing)


def _named(experiment: Experiment) -> Path | None:
    return local_path(experiment.run_dir, "run_dir") if experiment.run_dir else None


def unwritable(directory: Path, reason: str) -> ValueError:
    """What to raise where a run cannot be written."""
    return ValueError(f"the run directory {directory} cannot be written ({reason}); give another --run-dir")


def _make_fresh(runs: Path, name: str) -> Path:
    if os.sep in name:
        raise ValueError(
            f"name={name} must be the name of a directory, without {os.sep}; give --run-dir for a path"
        )
    runs.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        try:
            # Exclusive: of two runs that start at once, one gets the next number.
            (runs / f"{name}-{number}").mkdir()
            return runs / f"{name}-{number}"
        except FileExistsError:
            number += 1


def _has_progress(directory: Path) -> bool:
    """Whether another config could spoil anything: not if the run died before its first row or save."""
    return bool(_checkpoint_names(directory)) or _has_rows(directory)


def _is_untrained_import(directory: Path) -> bool:
    return _checkpoint_names(directory) == {str(IMPORTED_STEP)} and not _has_rows(directory)


def _checkpoint_names(directory: Path) -> set[str]:
    checkpoints = directory / CHECKPOINTS
    return {path.name for path in checkpoints.iterdir()} if checkpoints.is_dir() else set()


def _has_rows(directory: Path) -> bool:
    metrics = directory / METRICS_FILE
    return metrics.is_file() and metrics.stat().st_size > 0


def _is_free(name: str) -> bool:
    return name in FREE_FIELDS or name.startswith(FREE_SECTIONS)


def _refuse_steps(directory: Path, old: int, new: int, extend: bool) -> NoReturn:
    if new > old:
        fix = f"add --extend to continue to {new}, or give --steps {old}"
    else:
        fix = f"--extend only lengthens a run; give --steps {old}" if extend else f"give --steps {old}"
    raise ValueError(f"{directory} was trained with steps {old} -> {new}; {fix}, or another --run-dir")


def system_reason(error: OSError) -> str:
    """What the system says of a failure, within a sentence."""
    return (error.strerror or str(error)).lower()


def _text(value: Any) -> str:
    """A value as one would type it; lists in brackets, and text with blanks in quotes."""
    if isinstance(value, str):
        return repr(value) if not value or any(map(str.isspace, value)) else value
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return str(value)
