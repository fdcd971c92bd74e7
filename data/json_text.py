"""Values as JSON that every reader accepts, whatever a file's columns held."""

import json
from typing import Any


def dump_json(value: Any, *, ascii_only: bool = False) -> str:
    """The value on one line.

    A number that is not finite becomes null, since JSON has nothing else for it. Half a surrogate pair, for
    which UTF-8 has no bytes, is escaped. A value of a type that JSON lacks becomes its `str`.

    Args:
      ascii_only: escape all other characters too, for a terminal that may not have them.
    """
    try:
        text = json.dumps(value, ensure_ascii=ascii_only, allow_nan=False, default=str)
    except ValueError:
        finite = json.loads(json.dumps(value, default=str), parse_constant=lambda name: None)
        text = json.dumps(finite, ensure_ascii=ascii_only, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(json.loads(text))
    return text
