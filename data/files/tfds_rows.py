"""Rows of a prepared TFDS dataset, read without TensorFlow."""

import os
import re
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from flaxmill.data.files.rows import Refuse, Row, raise_error, unreadable

PREFIX = "tfds:"
"""Begins a dataset's name in place of a file's: tfds:NAME[/CONFIG][:VERSION][:SPLIT], or tfds:DIRECTORY."""

_VERSION = re.compile(r"(\d+|\*)(\.(\d+|\*)){2}")


class TfdsSplit(NamedTuple):
    """A split of a prepared dataset; `rows` may be indexed and knows its length.

    prepared_at: the time of its dataset_info.json in nanoseconds; None where that is not on this machine.
    """

    name: str
    inventory: list
    num_bytes: int
    rows: Any
    features: Any
    prepared_at: int | None = None


def open_tfds(name: str, is_training: bool) -> TfdsSplit:
    """Finds a dataset below TFDS_DATA_DIR (absent: ~/tensorflow_datasets); nothing is downloaded.

    Without a split, training reads `train`, and held-out examples are `validation` or else `test`. Raises
    ValueError where the dataset or split is missing or cannot be read without TensorFlow.
    """
    # Imported here: it takes a third of a second.
    import tensorflow_datasets as tfds

    path, split = _path_and_split(name)
    try:
        builder = tfds.builder_from_directory(path) if os.path.isdir(path) else tfds.builder(path)
        info = builder.info
    except Exception as error:  # errors of many kinds, ImportError and AssertionError among them
        raise ValueError(
            f"{name!r} is not a dataset that TFDS finds ({_first_line(error)}); name one as "
            "tfds:NAME/CONFIG, or the directory that holds its dataset_info.json"
        ) from None
    if not info.splits:
        raise ValueError(
            f"{name!r} is not prepared below TFDS_DATA_DIR; prepare it there with file_format='array_record'"
        )
    split = split or default_split(name, list(info.splits), is_training)
    if not _is_array_record(info):
        raise ValueError(_not_array_record(name, info, builder.data_dir))
    try:
        rows = builder.as_data_source(split=split)  # pyright: ignore[reportCallIssue]  (wrapt hides it)
        num_bytes = int(info.splits[split].num_bytes)
    except Exception as error:
        raise ValueError(
            f"{name!r} cannot be read ({_first_line(error)}); prepare it with file_format='array_record', "
            f"and name one of its splits: {', '.join(info.splits)}"
        ) from None
    inventory = [info.full_name, split, len(rows)]
    prepared_at = _time_of(os.path.join(str(builder.data_dir), "dataset_info.json"))
    return TfdsSplit(f"{PREFIX}{path}:{split}", inventory, num_bytes, rows, info.features, prepared_at)


def read_tfds(source: TfdsSplit, refuse: Refuse = raise_error) -> Iterator[Row]:
    """Rows with text as str and class labels as names; -1, TFDS's unknown label, becomes None. Refuses a row
    with text that is not UTF-8."""
    for number in range(len(source.rows)):
        where = f"row {number + 1}"
        try:
            values = _plain(source.rows[number], source.features)
        except UnicodeDecodeError as error:
            place = f"{where} of {source.name}"
            refuse(unreadable(place, f"its text is not UTF-8 at byte {error.start}"))
            continue
        except Exception as error:  # TFDS and ArrayRecord raise many kinds
            raise ValueError(
                f"{where} of {source.name} cannot be read ({_first_line(error)}); prepare the dataset again"
            ) from None
        yield Row(values, where, source.name)


def _time_of(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def _path_and_split(name: str) -> tuple[str, str]:
    """The dataset, with its version, and its split, which may hold a colon too: train[:10%]."""
    path, _, split = name.removeprefix(PREFIX).partition(":")
    version, _, rest = split.partition(":")
    return (f"{path}:{version}", rest) if _VERSION.fullmatch(version) else (path, split)


def _is_array_record(info: Any) -> bool:
    """Whether its rows are stored so that no TensorFlow is needed, perhaps beside another format."""
    formats = [info.file_format, *info.alternative_file_formats]
    return any(format_ is None or format_.value == "array_record" for format_ in formats)


def _not_array_record(name: str, info: Any, data_dir: Any) -> str:
    return (
        f"{name!r} is stored as {info.file_format.value}, which takes TensorFlow to read; have it stored as "
        "array_record too: pip install tensorflow apache-beam && python -m "
        f"tensorflow_datasets.scripts.convert_format --dataset_version_dir={shlex.quote(str(data_dir))} "
        "--out_file_format=array_record"
    )


def default_split(name: str, splits: list[str], is_training: bool) -> str:
    """train, or for held-out rows validation or else test. Raises ValueError where there is none of them."""
    for split in ("train",) if is_training else ("validation", "test"):
        if split in splits:
            return split
    raise ValueError(
        f"{name!r} has no split {'train' if is_training else 'validation or test'}; name one of its splits, "
        f"as in {name}:{splits[0]}"
    )


def _plain(value: Any, feature: Any) -> Any:
    """Values in Python's own types; a feature tells which numbers stand for names."""
    import numpy as np  # here, since every config needs PREFIX and need not wait for NumPy

    if isinstance(value, dict):
        inner = getattr(feature, "feature", feature)
        return {name: _plain(part, inner[name]) for name, part in value.items()}
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim):
        return [_plain(part, getattr(feature, "feature", feature)) for part in value]
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.generic | np.ndarray):
        value = value.item()
    if hasattr(feature, "int2str") and isinstance(value, int):
        return None if value < 0 else feature.int2str(value)
    return value


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
