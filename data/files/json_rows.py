"""Rows of JSON: one object per line, or an array of objects."""

import json
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from flaxmill.data.files.archives import open_bytes
from flaxmill.data.files.encodings import not_utf8
from flaxmill.data.files.rows import Refuse, Row, raise_error, read_lines, unreadable

# JSON's own white space.
_BLANKS = " \t\r\n"
# Far beyond what a row nests, and far below where Python's parser or printer gives up.
_MAX_DEPTH = 200


class JsonError(ValueError):
    """The reason why a text is not JSON, or has more than one meaning."""


def read_jsonl(path: PurePath, refuse: Refuse = raise_error) -> Iterator[Row]:
    """Reads one object per line and skips blank lines. Refuses a line that is not an object."""
    number = 0
    for line in read_lines(path, refuse):
        if not line.strip(_BLANKS):
            continue
        number += 1
        where = f"row {number}"
        if number == 1 and line.lstrip(_BLANKS).startswith("["):
            raise ValueError(
                f"{path} is a JSON array, not one object per line; give it the suffix .json to have it read"
            )
        try:
            row = _as_row(parse_json(line.strip(_BLANKS)), where, path)
        except JsonError as error:
            refuse(unreadable(f"{where} of {path}", str(error)))
        except ValueError as error:
            refuse(error)
        else:
            yield row


def read_json(path: PurePath, refuse: Refuse = raise_error) -> Iterator[Row]:
    """Reads an array of objects or one object per line. Refuses a value that is not an object; raises
    ValueError where the file is neither."""
    # Lines that are skipped are counted when all are read.
    first = first_value(path, refuse if refuse is raise_error else lambda error: None)
    if isinstance(first, dict):
        yield from read_jsonl(path, refuse)
        return
    try:
        values = parse_file(path)
    except JsonError as error:
        if first is None:
            yield from read_jsonl(path, refuse)  # its error names the row
            return
        raise unreadable(str(path), str(error)) from None
    if not isinstance(values, list):
        raise ValueError(
            f"{path} is one JSON value; write it as an array of objects, or as one object per line"
        )
    for number, value in enumerate(values, start=1):
        try:
            row = _as_row(value, f"row {number}", path)
        except ValueError as error:
            refuse(error)
        else:
            yield row


def first_value(path: PurePath, refuse: Refuse = raise_error) -> Any:
    """The value of the first line, [] where it begins an array, None where it is not JSON on its own."""
    first = next((line for line in read_lines(path, refuse) if line.strip(_BLANKS)), "")
    if first.lstrip(_BLANKS).startswith("["):
        return []
    try:
        return parse_json(first)
    except JsonError:
        return None


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises JsonError if it is not JSON, nests too deep or names a key twice."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        line = "" if error.lineno == 1 else f" of its line {error.lineno}"
        raise JsonError(f"{error.msg} at character {error.colno}{line}") from None
    except RecursionError:
        raise JsonError(_TOO_DEEP) from None
    except JsonError:
        raise
    except ValueError as error:  # for a number of thousands of digits
        raise JsonError(str(error).partition(";")[0]) from None
    if text.count("[") + text.count("{") > _MAX_DEPTH and _is_too_deep(value):
        raise JsonError(_TOO_DEEP)
    return value


def parse_file(path: PurePath) -> Any:
    """The value of a file that is one JSON text. Raises JsonError as parse_json does."""
    with open_bytes(path) as file:
        data = file.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(f"{path} is not UTF-8 at byte {error.start}", data, error, path) from None
    return parse_json(text)


def _as_row(value: Any, where: str, path: PurePath) -> Row:
    if not isinstance(value, dict):
        raise unreadable(f"{where} of {path}", f"it is not an object, but {json.dumps(value)[:40]!r}")
    return Row(value, where, str(path))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise JsonError(f"it names the key {twice!r:.60} twice")
    return values


_TOO_DEEP = f"it nests more than {_MAX_DEPTH} levels"


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            part
            for whole in level
            if isinstance(whole, dict | list)
            for part in (whole.values() if isinstance(whole, dict) else whole)
        ]
        if not level:
            return False
    return True
