"""Rows of files in any format: a row's place, what it lacks, and the lines that it is made from."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from flaxmill.data.files.archives import open_bytes
from flaxmill.data.files.encodings import not_utf8
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


Reader = Callable[[Path], Iterator[Row]]


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


def read_lines(path: Path) -> Iterator[str]:
    """Lines with their ends, which are \\n alone, without a byte-order mark. Raises ValueError where a line
    is not UTF-8 or holds a NUL."""
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            place = f"line {number} of {path}"
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise not_utf8(f"{place} is not UTF-8 at byte {error.start}", line, error, path) from None
            if "\0" in text:
                raise unreadable(
                    place, f"it holds a NUL at character {text.index(chr(0)) + 1}, and is not text"
                )
            yield text.removeprefix("\ufeff") if number == 1 else text
