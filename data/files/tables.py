"""Tables as streams of rows, by the suffix of their file: CSV, TSV, Parquet, Arrow, and JSON."""

import csv
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from flaxmill.data.config import Quotes
from flaxmill.data.files.archives import format_suffix, open_bytes
from flaxmill.data.files.arrow_tables import read_arrow, read_parquet
from flaxmill.data.files.json_rows import read_json, read_jsonl
from flaxmill.data.files.rows import (
    BLANKS,
    Reader,
    Refuse,
    Row,
    check_names,
    decode_line,
    raise_error,
    read_lines,
    unreadable,
)

# csv refuses fields above 128 KiB unless told otherwise; an article can be longer.
_MAX_FIELD_CHARACTERS = 1 << 30
# A carriage return alone ends a line, as old Macs and some exports write it.
_LINE_END_INSIDE = re.compile(r"(?<=\r)(?!\n)")
_LINE_END_INSIDE_BYTES = re.compile(rb"(?<=\r)(?!\n)")
# The error of a file that ends inside quotes.
_NEVER_CLOSED = "unexpected end of data"
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "pipes"}

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""The suffixes of tables."""


def find_reader(
    path: PurePath,
    quotes: Quotes,
    refuse: Refuse = raise_error,
    columns: Sequence[str] = (),
    beside: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Reader | None:
    """The function that reads the table; None where the suffix is not a table's.

    Args:
      refuse: what is done about a bad row.
      columns: read the first of them that there is alone, where the format can, and lists of integers as
        arrays.
      beside: what is read beside a column, where that is the first.
    """
    match format_suffix(path):
        case ".csv":
            return functools.partial(read_csv, quotes=quotes, refuse=refuse)
        case ".tsv":
            return functools.partial(read_tsv, quotes=quotes, refuse=refuse)
        case ".jsonl":
            return functools.partial(read_jsonl, refuse=refuse)
        case ".json":
            return functools.partial(read_json, refuse=refuse)
        case ".parquet":
            return functools.partial(read_parquet, columns=columns, beside=beside)
        case ".arrow":
            return functools.partial(read_arrow, columns=columns, beside=beside)
    return None


def read_csv(path: PurePath, quotes: Quotes = "double", refuse: Refuse = raise_error) -> Iterator[Row]:
    """Rows under a header; fields may be quoted, as `data.quotes` says, and then hold line ends.

    If the header has no comma, but only semicolons, only tabs or only pipes, these separate the fields.
    Refuses a bad row. Raises ValueError for a bad header, and for a quote that is never closed, which would
    take all that follows with it.
    """
    return _read_delimited(path, ",", quotes, refuse)


def read_tsv(path: PurePath, quotes: Quotes = "double", refuse: Refuse = raise_error) -> Iterator[Row]:
    """As read_csv, with tabs between the fields."""
    return _read_delimited(path, "\t", quotes, refuse)


def _read_delimited(path: PurePath, delimiter: str, quotes: Quotes, refuse: Refuse) -> Iterator[Row]:
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    quoting = csv.QUOTE_NONE if quotes == "none" else csv.QUOTE_MINIMAL
    # Strict: otherwise one quote that is never closed swallows the rest of the file as a field.
    parse = functools.partial(csv.reader, quoting=quoting, strict=True)
    bad_lines: list[ValueError] = []
    skips = refuse is not raise_error
    lines = _marked_lines(path, bad_lines) if skips else _end_lines_at_returns(read_lines(path))
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
            bad = unreadable(f"{where} of {path}", f"{error}; {rule}")
            if not header or str(error) == _NEVER_CLOSED:
                raise bad from None
            refuse(bad)
            bad_lines.clear()
            continue
        if fields is None:
            return
        if bad_lines:
            if not header:
                raise bad_lines[0]
            refuse(bad_lines[0])
            bad_lines.clear()
            continue
        if not fields or (len(header) != 1 and len(fields) == 1 and not fields[0].strip(BLANKS)):
            continue  # nothing but blanks
        if not header:
            header = _header(fields, f"{where} of {path}", path)
            continue
        if len(fields) != len(header):
            has = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
            reason = f"it has {has}, the header has {len(header)}{by}"
            refuse(unreadable(f"{where} of {path}", reason))
            continue
        number += 1
        yield Row(dict(zip(header, fields, strict=True)), where, str(path))


def _header(fields: list[str], place: str, path: PurePath) -> list[str]:
    header = [field.strip() for field in fields]
    if header[0].lower().startswith("sep="):
        raise unreadable(place, f"{header[0]!r} is Excel's note; delete that line")
    check_names(header, path)
    return header


def _marked_lines(path: PurePath, bad: list[ValueError]) -> Iterator[str]:
    """Lines, of which bad ones are yielded too, readable and with their errors in `bad`: the row that a line
    is a part of must end where it ends."""
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            for piece in _LINE_END_INSIDE_BYTES.split(line):
                if not piece:
                    continue
                try:
                    yield decode_line(piece, number, path)
                except ValueError as error:
                    bad.append(error)
                    yield piece.decode("utf-8", "replace").replace("\0", "\ufffd")


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


def _find_delimiter(header: list[str], usual: str, parse: Callable[..., Any], path: PurePath) -> str:
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
