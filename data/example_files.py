"""The sources of labelled examples: files, read by their suffix, and TFDS datasets, one after another."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from flaxmill.data.config import DataConfig
from flaxmill.data.conll import read_conll
from flaxmill.data.corpora import find_files
from flaxmill.data.squad import read_squad
from flaxmill.data.tables import Reader, Row, read_csv, read_jsonl, read_parquet, read_tsv
from flaxmill.data.tfds_rows import PREFIX, open_tfds, read_tfds

_DELIMITED = {".csv": read_csv, ".tsv": read_tsv}
_TABLES = {".jsonl": read_jsonl, ".parquet": read_parquet}


class ExampleFiles(NamedTuple):
    """A named source of rows; `inventory` tells without reading whether it changed."""

    name: str
    inventory: list[list]
    num_bytes: int
    rows: Callable[[], Iterator[Row]]


def find_examples(config: DataConfig, field: str, objective: str) -> ExampleFiles:
    """What data.files or data.valid_files (`field`) name.

    Raises ValueError where a file is missing, or its suffix says no format.
    """
    patterns: Sequence[str] = getattr(config, field)
    assert patterns, field
    found: dict[str, ExampleFiles] = {}
    for pattern in patterns:
        for source in _find(pattern, config, field, objective):
            found.setdefault(source.name, source)  # a file that two patterns match is read once
    return ExampleFiles(
        f"data.{field}={', '.join(patterns)}",
        [entry for source in found.values() for entry in source.inventory],
        sum(source.num_bytes for source in found.values()),
        lambda: itertools.chain.from_iterable(source.rows() for source in found.values()),
    )


def _find(pattern: str, config: DataConfig, field: str, objective: str) -> Iterator[ExampleFiles]:
    if pattern.startswith(PREFIX):
        split = open_tfds(pattern, is_training=field == "files")
        rows = functools.partial(read_tfds, split)
        yield ExampleFiles(split.name, [split.inventory], split.num_bytes, rows)
        return
    for path in find_files([pattern], f"data.{field}"):
        rows = functools.partial(_reader(path, config, objective), path)
        stat = path.stat()
        inventory = [str(path), stat.st_size, stat.st_mtime_ns]
        yield ExampleFiles(str(path), [inventory], stat.st_size, rows)


def _reader(path: Path, config: DataConfig, objective: str) -> Reader:
    suffix = path.suffix.lower()
    if objective == "question_answering" and suffix == ".json":
        return read_squad
    if objective == "token_classification" and suffix == ".conll":
        return functools.partial(read_conll, word_column=config.text_column, tag_column=config.label_column)
    if suffix in _DELIMITED:
        return functools.partial(_DELIMITED[suffix], quotes=config.quotes)
    if suffix in _TABLES:
        return _TABLES[suffix]
    known = [*_DELIMITED, *_TABLES]
    known += [".json"] if objective == "question_answering" else []
    known += [".conll"] if objective == "token_classification" else []
    raise ValueError(
        f"{path}: suffix {suffix!r} names no format that objective={objective} reads; use {', '.join(known)}"
    )
