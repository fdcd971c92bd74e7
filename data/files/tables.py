"""Tables as streams of rows, by the suffix of their file: CSV, TSV, Parquet, and JSON."""

import csv
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flaxmill.data.config import Quotes
from flaxmill.data.files.archives import format_suffix, is_archive
from flaxmill.data.files.json_rows import read_json, read_jsonl
from flaxmill.data.files.rows import BLANKS, Reader, Row, read_lines, unreadable

# csv refuses fields above 128 KiB unless told otherwise; an article can be longer.
_MAX_FIELD_CHARACTERS = 1 << 30
_PARQUET_ROWS = 1024
# A carriage return alone ends a line, as old Macs and some exports write it.
_LINE_END_INSIDE = re.compile(r"(?<=\r)(?!\n)")
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "pipes"}

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""The suffixes of tables."""


def find_reader(path: Path, quotes: Quotes) -> Reader | None:
    """The function that reads the table; None where the suffix is not a table's."""
    match format_suffix(path):
        case ".csv":
            return functools.partial(read_csv, quotes=quotes)
        case ".tsv":
            return functools.partial(read_tsv, quotes=quotes)
        case ".jsonl":
            return read_jsonl
        case ".json":
            return read_json
        case ".parquet":
            return read_parquet
    return None


def read_csv(path: Path, quotes: Quotes = "double") -> Iterator[Row]:
    """Rows under a header; fields may be quoted, as `data.quotes` says, and then hold line ends.

    If the header has no comma, but only semicolons, only tabs or only pipes, these separate the fields.
    Raises ValueError for a bad row.
    """
    return _read_delimited(path, ",", quotes)


def read_tsv(path: Path, quotes: Quotes = "double") -> Iterator[Row]:
    """As read_csv, with tabs between the fields."""
    return _read_delimited(path, "\t", quotes)


def read_parquet(path: Path) -> Iterator[Row]:
    """Rows of all row groups, a thousand in memory at a time. Raises ValueError where they are damaged."""
    if is_archive(path):
        raise ValueError(f"{path} is a Parquet table in an archive, and compressed itself; unpack it")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path} needs pyarrow to be read; pip install 'flaxmill[tasks]'") from None
    number = 0
    # Strings that are not UTF-8, and dates that Python has no value for, raise errors of other kinds.
    errors = (pyarrow.ArrowException, OSError, UnicodeDecodeError, OverflowError)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_names(file.schema_arrow.names, path)
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, f"row {number}", str(path))
    except errors as error:
        reason = " ".join(str(error).split())[:200]
        raise unreadable(f"row {number + 1} of {path}", reason or type(error).__name__) from None


def _read_delimited(path: Path, delimiter: str, quotes: Quotes) -> Iterator[Row]:
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    quoting = csv.QUOTE_NONE if quotes == "none" else csv.QUOTE_MINIMAL
    # Strict: otherwise one quote that is never closed swallows the rest of the file as a field.
    parse = functools.partial(csv.reader, quoting=quoting, strict=True)
    lines = _end_lines_at_returns(read_lines(path))
    head = _until_text(lines)
    found = _find_delimiter(head[-1:], delimiter, parse, path)
    by = "" if found == delimiter else f", separated by {_DELIMITERS[found]}"
    reader = parse(itertools.chain(head, lines), delimiter=found)
    header: list[str] = []
    number = 0
    while True:
        where = f"row {number + 1} (line {reader.line_num + 1})" if header else "the header"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            rule = 'a quote inside quotes is written ""; where quotes are text use data.quotes=none'
            raise unreadable(f"{where} of {path}", f"{error}; {rule}") from None
        if fields is None:
            return
        if not fields or (len(header) != 1 and len(fields) == 1 and not fields[0].strip(BLANKS)):
            continue  # nothing but blanks
        if not header:
            header = [field.strip() for field in fields]
            if header[0].lower().startswith("sep="):
                raise unreadable(f"{where} of {path}", f"{header[0]!r} is Excel's note; delete that line")
            _check_names(header, path)
            continue
        if len(fields) != len(header):
            has = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
            reason = f"it has {has}, the header has {len(header)}{by}"
            raise unreadable(f"{where} of {path}", reason)
        number += 1
        yield Row(dict(zip(header, fields, strict=True)), where, str(path))


def _end_lines_at_returns(lines: Iterable[str]) -> Iterator[str]:
    return (piece for line in lines for piece in _LINE_END_INSIDE.split(line) if piece)


def _until_text(lines: Iterator[str]) -> list[str]:
    """The first lines, up to one that is not empty."""
    head = []
    for line in lines:
        head.append(line)
        if line.strip(BLANKS):
            break
    return head


def _find_delimiter(header: list[str], usual: str, parse: Callable[..., Any], path: Path) -> str:
    """What separates the fields: the usual delimiter, or the only other delimiter in a header without it."""

    def splits(delimiter: str) -> bool:
        try:
            return any(len(fields) > 1 for fields in parse(header, delimiter=delimiter))
        except csv.Error:  # for a field that goes on, or for a mistake that is named when it is read
            return False

    others = [delimiter for delimiter in _DELIMITERS if delimiter != usual and splits(delimiter)]
    if splits(usual) or not others:
        return usual
    if len(others) > 1:
        names = " and ".join(_DELIMITERS[delimiter] for delimiter in others)
        raise ValueError(
            f"the header of {path} has no {_DELIMITERS[usual]}, but {names}; separate its fields by "
            f"{_DELIMITERS[usual]}"
        )
    return others[0]


def _check_names(names: Sequence[str], path: Path) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        if not twice[0]:
            raise ValueError(f"{path} has {len(twice)} columns without a name; give each a name of its own")
        raise ValueError(f"{path} names the column {twice[0]!r} twice; give each column a name of its own")
