"""Rows of files in any format: a row's place, what it lacks, and the lines that it is made from."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from flaxmill.data.files.archives import open_bytes
from flaxmill.data.files.encodings import not_utf8
from flaxmill.data.messages import did_you_mean
from flaxmill.data.tokenizer.failures import half_character

# What line formats call blank; U+00A0 and U+3000 are characters of words.
BLANKS = " \t\r\n\v\f"


class Row(NamedTuple):
    """The columns of one example as they are in its file, and `where` it is in the `file` ("row 3")."""

    values: dict[str, Any]
    where: str
    file: str

    @property
    def place(self) -> str:
        return f"{self.where} of {self.file}"


Reader = Callable[[PurePath], Iterator[Row]]
Refuse = Callable[[ValueError], None]
"""What is done about a bad row: raise the error, or count it and return, and the row is skipped."""


def raise_error(error: ValueError) -> None:
    """Refuse a bad row by ending the reading there."""
    raise error


def unreadable(place: str, reason: str) -> ValueError:
    """The error for a row that cannot be parsed."""
    return ValueError(f"{place} cannot be read ({reason}); correct or delete it")


def is_missing(value: Any) -> bool:
    """Whether a column holds nothing: null, NaN (which is how tables spell null among numbers), or blanks.

    The strings "nan", "NA" and "null" are text.
    """
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def check_unicode(text: str, place: str, column: str) -> None:
    """Raises ValueError for half of a surrogate pair, which JSON can spell though it is no character."""
    half = half_character(text)
    if half is not None:
        raise unreadable(place, f"{column!r} has half a character at place {half}")


def read_lines(path: PurePath, refuse: Refuse = raise_error) -> Iterator[str]:
    """Lines with their ends, which are \\n alone, without a byte-order mark. A line that is not UTF-8 or
    holds a NUL is refused."""
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                text = decode_line(line, number, path)
            except ValueError as error:
                refuse(error)
            else:
                yield text


def decode_line(line: bytes, number: int, path: PurePath) -> str:
    """The text of line `number`. Raises ValueError where it is not UTF-8 or holds a NUL."""
    place = f"line {number} of {path}"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(f"{place} is not UTF-8 at byte {error.start}", line, error, path) from None
    if "\0" in text:
        raise unreadable(place, f"it holds a NUL at character {text.index(chr(0)) + 1}, and is not text")
    return text.removeprefix("\ufeff") if number == 1 else text


def unknown_column(column: str, names: Sequence[str], place: str, fix: str = "") -> ValueError:
    """The error for a data.text_column that a row or a table lacks; `fix` is another way out."""
    return ValueError(
        f"data.text_column={column!r} is not a column of {place}; it has {', '.join(names) or 'none'}; "
        f"{did_you_mean(column, names) or 'name one of these'}{fix}"
    )


def check_names(names: Sequence[str], path: PurePath) -> None:
    """Raises ValueError where two columns have one name, or none."""
    if twice := [name for name in names if names.count(name) > 1]:
        if not twice[0]:
            raise ValueError(f"{path} has {len(twice)} columns without a name; give each a name of its own")
        raise ValueError(f"{path} names the column {twice[0]!r} twice; give each column a name of its own")
