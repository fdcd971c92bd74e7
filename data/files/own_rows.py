"""Text from Python: what an experiment file or a script has defined is read like the rows of a table."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxmill.data.files.rows import Row
from flaxmill.data.files.specs import OWN


class OwnRows(NamedTuple):
    """Rows under a name, and the version by which a prepared dataset is found again.

    items: starts to give them, anew at each call.
    """

    name: str
    items: Callable[[], Iterable[Any]]
    version: str
    num_bytes: int


_DEFINED: dict[str, OwnRows] = {}


def define_text(
    name: str,
    items: Callable[[], Iterable[Any]] | Sequence[Any],
    *,
    version: str | None = None,
    file: str | None = None,
    num_bytes: int = 0,
) -> str:
    """Name text that Python gives; returns the spec for `data.files` or a source: "python:NAME".

    Args:
      items: a function that starts them anew at each call, such as a generator function; or a sequence: a
        list, a `datasets.Dataset`, a Grain data source. An item is a text, or a row: a dict with a text, or
        with its token ids, in `data.text_column`.
      version: another one for other text. A prepared dataset is found by the name and the version.
      file: the file that defines the text, its `__file__`; its digest is then the version.
      num_bytes: about how much text it is. A tokenizer is trained on a share of that size or, where it is 0,
        on all of it.

    Without `version` and `file` the version of a list or tuple of texts is the digest of all of them.

    Raises:
      ValueError: the items can be read only once, or nothing tells their version.
    """
    if hasattr(items, "__next__"):
        raise ValueError(
            f"text {name!r} is an iterator, which can be read only once; give the function that makes it, "
            "without calling it"
        )
    if file is not None and version is None:
        version = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    if isinstance(items, list | tuple) and all(isinstance(item, str) for item in items):
        num_bytes = num_bytes or sum(len(item.encode("utf-8", "surrogatepass")) for item in items)
        version = version or _digest(items)
    if version is None:
        raise ValueError(
            f"text {name!r} has no version by which its dataset is found again; give version=... or "
            "file=__file__"
        )
    start = items if callable(items) else lambda: (items[number] for number in range(len(items)))
    _DEFINED[name] = OwnRows(name, start, version, num_bytes)
    return f"{OWN}{name}"


def find_own(spec: str, field: str) -> OwnRows:
    """The rows that python:NAME names. Raises ValueError where no Python file has defined them."""
    name = spec.removeprefix(OWN)
    if name not in _DEFINED:
        raise ValueError(
            f"{field}={spec} is text that a Python file defines, and no such file has been run; name it: "
            f"flaxmill train mine.py, or --config mine.py"
        )
    return _DEFINED[name]


def read_own(rows: OwnRows, column: str) -> Iterator[Row]:
    """The items as rows; a text alone stands in the column."""
    for number, item in enumerate(rows.items()):
        values = dict(item) if isinstance(item, Mapping) else {column: item}
        yield Row(values, f"item {number}", f"{OWN}{rows.name}")


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
