"""Datasets that Hugging Face's `save_to_disk` wrote: which of their files hold a split's rows."""

import json
import os
from pathlib import Path
from typing import Any

from flaxmill.data.files.tfds_rows import default_split
from flaxmill.data.messages import did_you_mean

# A dataset has the first file; a dictionary of datasets has the second, and a folder for each split.
_STATE, _SPLITS = "state.json", "dataset_dict.json"


def find_saved(spec: str) -> tuple[Path, str] | None:
    """The directory of a saved dataset, or of several, and the split that is named; None: it is not one."""
    for text, split in ((spec, ""), spec.rpartition(":")[::2]):
        if text and any(os.path.isfile(os.path.join(text, name)) for name in (_STATE, _SPLITS)):
            return Path(text).absolute(), split
    return None


def saved_files(directory: Path, split: str, field: str, is_training: bool) -> list[Path]:
    """The .arrow files of a split, in the order of its rows.

    Args:
      split: "" means train, or for held-out rows validation or else test, where there are several.

    Raises ValueError, naming the field, where the split or a file is missing.
    """
    if not (directory / _SPLITS).is_file():
        return _data_files(directory, split, field)
    splits = _names(_load(directory / _SPLITS).get("splits"))
    name = f"{field}={str(directory)!r}"
    if not splits:
        raise ValueError(f"{name} names no splits in its {_SPLITS}; save it again")
    split = split or default_split(str(directory), splits, is_training)
    if split not in splits:
        raise ValueError(
            f"{name} has no split {split!r}; it has {', '.join(splits)}; "
            f"{did_you_mean(split, splits) or 'name one of these'}"
        )
    return _data_files(directory / split, "", field)


def _data_files(directory: Path, split: str, field: str) -> list[Path]:
    state = _load(directory / _STATE)
    own = state.get("_split")
    if split and split != own:
        raise ValueError(
            f"{field}={str(directory)!r} is one dataset and has no split {split!r}; leave the split out"
        )
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise ValueError(
            f"{field}={str(directory)!r} keeps the order of its rows apart from them; save "
            "dataset.flatten_indices() instead"
        )
    entries = state.get("_data_files")
    entries = entries if isinstance(entries, list) else []
    names = _names([entry.get("filename") for entry in entries if isinstance(entry, dict)])
    files = [directory / name for name in names]
    if not files or len(names) < len(entries) or not all(map(os.path.isfile, files)):
        raise ValueError(
            f"{field}={str(directory)!r} lacks data files that its {_STATE} names; save it again"
        )
    return files


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({str(error)[:100]}); save the dataset again") from None
    return value if isinstance(value, dict) else {}


def _names(values: Any) -> list[str]:
    """The names among the values that name something inside a directory."""
    names = [value for value in values if isinstance(value, str)] if isinstance(values, list) else []
    return [name for name in names if os.path.basename(name) == name not in ("", ".", "..")]
