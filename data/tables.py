"""Tables as streams of rows, by the suffix of their file: CSV, TSV, JSONL and Parquet."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxmill.data.config import Quotes

# csv refuses fields above 128 KiB unless told otherwise; an article can be longer.
_MAX_FIELD_CHARACTERS = 1 << 30
_PARQUET_ROWS = 1024


class Row(NamedTuple):
    """The columns of one example as they stand in its file, and `where` in the `file` ("row 3")."""

    values: dict[str, Any]
    where: str
    file: str

    @property
    def place(self) -> str:
        return f"{self.where} of {self.file}"


Reader = Callable[[Path], Iterator[Row]]


def read_csv(path: Path, quotes: Quotes = "double") -> Iterator[Row]:
    """Rows under a header; fields may be quoted, as `data.quotes` says, and then hold line ends.

    Raises ValueError for a bad row.
    """
    return _read_delimited(path, ",", quotes)


def read_tsv(path: Path, quotes: Quotes = "double") -> Iterator[Row]:
    """As read_csv, with tabs between the fields."""
    return _read_delimited(path, "\t", quotes)


def read_jsonl(path: Path) -> Iterator[Row]:
    """An object a line; blank lines are passed over. Raises ValueError for a line that is none."""
    number = 0
    for line in read_lines(path):
        if not line.strip():
            continue
        number += 1
        where = f"row {number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise unreadable(f"{where} of {path}", f"{error.msg} at character {error.colno}") from None
        if not isinstance(values, dict):
            raise unreadable(f"{where} of {path}", f"it is no object, but {line.strip()[:40]!r}")
        yield Row(values, where, str(path))


def read_parquet(path: Path) -> Iterator[Row]:
    """Rows of all row groups, a thousand in memory at a time. Raises ValueError where they are damaged."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path} needs pyarrow to be read; pip install 'flaxmill[tasks]'") from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, f"row {number}", str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise unreadable(f"row {number + 1} of {path}", str(error).splitlines()[0]) from None


def read_lines(path: Path) -> Iterator[str]:
    """Lines with their ends, without a byte-order mark. Raises ValueError where one is not UTF-8."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                text = _decode(line, number, path)
                yield text.removeprefix("\ufeff") if number == 1 else text
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check it") from None


def unreadable(place: str, reason: str) -> ValueError:
    """The error of a row that cannot be parsed."""
    return ValueError(f"{place} cannot be read ({reason}); correct or delete it")


def _read_delimited(path: Path, delimiter: str, quotes: Quotes) -> Iterator[Row]:
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    quoting = csv.QUOTE_NONE if quotes == "none" else csv.QUOTE_MINIMAL
    # Strict: otherwise one quote that is never closed swallows the rest of the file as a field.
    reader = csv.reader(read_lines(path), delimiter=delimiter, quoting=quoting, strict=True)
    header: list[str] | None = None
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
        if not fields:
            continue
        if header is None:
            header = _check_header(fields, path)
            continue
        if len(fields) != len(header):
            reason = f"it has {len(fields)} fields, the header has {len(header)}"
            raise unreadable(f"{where} of {path}", reason)
        number += 1
        yield Row(dict(zip(header, fields, strict=True)), where, str(path))


def _check_header(fields: Sequence[str], path: Path) -> list[str]:
    header = [field.strip() for field in fields]
    if twice := [name for name in header if header.count(name) > 1]:
        raise ValueError(f"{path} names the column {twice[0]!r} twice; give each column a name of its own")
    return header


def _decode(line: bytes, number: int, path: Path) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"line {number} of {path} is not UTF-8 at byte {error.start} (0x{line[error.start]:02x}); "
            "convert the file, for example with iconv -t UTF-8"
        ) from None
