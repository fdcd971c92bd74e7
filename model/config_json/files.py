"""Reads the JSON files of a model's directory, whatever they hold."""

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 100_000_000  # an index of a million tensors
_MAX_DIGITS = 400  # a float written without an exponent has 309


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises ValueError, in one line, if the file is torn or holds something else."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(
                f"{str(path)!r} has {size} bytes, more than any model's; copy it again from its source"
            )
        if not path.is_file() and not path.is_dir():  # a pipe or a device may never end
            raise ValueError(f"{str(path)!r} is not a file; copy it again from its source")
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read ({error.strerror}); copy it again") from None
    return parse_object(text, path)


def parse_object(text: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in a file or in a part of it. Raises ValueError as `read_json` does."""
    try:
        values = json.loads(text.decode("utf-8"), object_pairs_hook=_object, parse_int=_whole_number)
        if b"\\u" in text:
            json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{str(path)!r} has half of a surrogate pair, which is not a character; correct it"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not JSON ({error}); copy it again") from None
    except RecursionError:
        raise ValueError(f"{str(path)!r} nests too deeply to be a model's; copy it again") from None
    except _UnusualError as error:
        raise ValueError(f"{str(path)!r} {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{str(path)!r} holds a JSON {type(values).__name__}, not an object; copy it again")
    return values


class _UnusualError(Exception):
    """JSON that no program writes for a model."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise _UnusualError(f"has the key {name!r} twice in one object; keep one")
        values[name] = value
    return values


def _whole_number(text: str) -> int:
    if len(text) > _MAX_DIGITS:  # beyond 4300 digits Python neither makes an int nor writes one
        raise _UnusualError(f"has a number of {len(text)} digits; correct it")
    return int(text)
