"""The texts of files, one a line or one a row of a table, in order and none left out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from flaxmill.data.config import DataConfig
from flaxmill.data.files.archives import format_suffix
from flaxmill.data.files.local_paths import refuse_remote
from flaxmill.data.files.rows import check_unicode, is_missing, read_lines, unknown_column
from flaxmill.data.files.sources import find_files
from flaxmill.data.files.tables import TABLES, find_reader

_TEXT = ".txt"


def read_texts(files: Sequence[str], column: str = DataConfig().text_column) -> list[str]:
    """Every line of a .txt, without its end, and the text of every row of a table, in `column`.

    A blank line or a missing value is "": results stand in the order of the files' rows. Files may be
    compressed, and globs are read in the order of their names.

    Raises:
      ValueError: no such file, a suffix of another kind, no such column, a value that is not text, or no
        text at all.
    """
    for pattern in files:
        refuse_remote(pattern, "--data")
    paths = find_files(files, "--data")
    for path in paths:
        if format_suffix(path) not in (_TEXT, *TABLES):
            raise ValueError(
                f"--data={path}: suffix {format_suffix(path)!r} names no format; use {_TEXT}, a text a line, "
                f"or one of {', '.join(TABLES)}"
            )
    texts = [text for path in paths for text in _read(path, column)]
    if not texts:
        raise ValueError(f"--data={', '.join(files)} holds no text; give a file with at least one")
    return texts


def _read(path: Path, column: str) -> Iterator[str]:
    reader = find_reader(path, "double", columns=(column,))
    if reader is None:
        for line in read_lines(path):
            yield line.removesuffix("\n").removesuffix("\r")
        return
    for row in reader(path):
        if column not in row.values:
            raise unknown_column(column, [str(name) for name in row.values], row.place)
        value = row.values[column]
        if is_missing(value):
            yield ""
        elif not isinstance(value, str):
            raise ValueError(f"{row.place}: {column!r} holds {value!r:.60}, which is not text; give a string")
        else:
            check_unicode(value, row.place, column)
            yield value
