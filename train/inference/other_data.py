"""Data other than a run's own, read as the run reads its own: what `flaxmill eval --data` measures on."""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

from flaxmill.data.files.specs import is_local
from flaxmill.train.experiment import Experiment


class OtherData(NamedTuple):
    """A file or glob, its columns where their names differ from those in the run's files, and whether it has
    no labels, so that one can only predict."""

    files: str
    columns: dict[str, str]
    unlabelled: bool = False


def folder_name(files: str) -> str:
    """The name of a folder for the results on this file or glob; no other file shares it."""
    readable = re.sub(r"[^\w.-]+", "_", files.rpartition("/")[2])[:64]
    whole = str(Path(files).absolute()) if is_local(files) else files
    return f"{readable}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def on_other_data(experiment: Experiment, other: OtherData, tokenizer: Path) -> Experiment:
    """The experiment with all of `other` held out, with its labels and with this tokenizer."""
    files = str(Path(other.files).absolute()) if is_local(other.files) else other.files
    changes: dict[str, Any] = dict(other.columns)
    if other.unlabelled:
        changes |= {"label_column": None, "target_column": None}
    data = dataclasses.replace(
        experiment.data,
        files=(files,),
        valid_files=(files,),
        sources=(),
        valid_sources=(),
        source_changes=(),
        mix_temperature=None,
        duplicates="keep",  # each document is on both sides
        tokenizer=str(tokenizer.absolute()),
        **changes,
    )
    return dataclasses.replace(experiment, data=data, eval_batches=None)
