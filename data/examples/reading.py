"""The sources of labelled examples: files, read by their suffix, saved datasets and TFDS datasets."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from flaxmill.data.config import DataConfig
from flaxmill.data.files.archives import format_suffix
from flaxmill.data.files.conll import read_conll
from flaxmill.data.files.local_paths import refuse_remote
from flaxmill.data.files.rows import Reader
from flaxmill.data.files.saved_datasets import find_saved, saved_files
from flaxmill.data.files.sources import (
    InputSource,
    InputSources,
    Log,
    find_files,
    make_file_source,
    read_once,
)
from flaxmill.data.files.squad import read_questions
from flaxmill.data.files.tables import TABLES, find_reader
from flaxmill.data.files.tfds_rows import PREFIX, open_tfds, read_tfds
from flaxmill.data.objectives import examples_of, find_function

# Raise this when the same file gives other words or tags: datasets are then made from it again.
_CONLL_READER = 2


def find_examples(
    config: DataConfig, field: Literal["files", "valid_files"], objective: str, log: Log
) -> InputSources:
    """The sources that data.files or data.valid_files (`field`) name, as rows.

    Raises ValueError where a file is missing, or its suffix names no format.
    """
    patterns, name = getattr(config, field), f"data.{field}"
    assert patterns, field
    sources = (source for pattern in patterns for source in _find(pattern, config, name, objective))
    return read_once(f"{name}={', '.join(patterns)}", sources, log)


def _find(pattern: str, config: DataConfig, field: str, objective: str) -> Iterator[InputSource]:
    if pattern.startswith(PREFIX):
        split = open_tfds(pattern, is_training=field == "data.files")
        read = functools.partial(read_tfds, split)
        yield InputSource(split.name, [split.inventory], split.num_bytes, split.name, read)
        return
    refuse_remote(pattern, field)
    saved = find_saved(pattern)
    files = saved_files(*saved, field, field == "data.files") if saved else find_files([pattern], field)
    for path in files:
        reader, read_as = _reader(path, config, objective)
        yield make_file_source(path, field, functools.partial(reader, path), read_as=read_as)


def squad_reader(config: DataConfig) -> tuple[Reader, tuple[Any, ...]]:
    """The reader of SQuAD's .json, and what decides how it reads."""
    return read_questions, ()


def conll_reader(config: DataConfig) -> tuple[Reader, tuple[Any, ...]]:
    """The reader of a .conll, and what decides how it reads."""
    reader = functools.partial(read_conll, word_column=config.text_column, tag_column=config.label_column)
    return reader, (_CONLL_READER,)


def _reader(path: Path, config: DataConfig, objective: str) -> tuple[Reader, tuple[Any, ...]]:
    """The reader of a file, and what decides how it reads, apart from settings that every dataset stores."""
    suffix, formats = format_suffix(path), examples_of(objective).formats
    if suffix in formats:
        return find_function(formats[suffix])(config)
    reader = find_reader(path, config.quotes)
    if reader is not None:
        return reader, (() if config.quotes == "double" else (config.quotes,))
    known = [*TABLES, *(own for own in formats if own not in TABLES)]
    raise ValueError(
        f"{path}: suffix {suffix!r} names no format that objective={objective} reads; use {', '.join(known)}"
    )
